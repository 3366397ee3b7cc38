"""The figure of the landing page is the one that its record gives."""

import re

from normlab import front, records


def test_the_committed_figure_is_drawn_from_the_committed_record(tmp_path):
    fresh = front.write(tmp_path / "figure.svg").read_text()
    assert front.FILE.read_text() == fresh, "draw it anew with `python -m normlab.front`"


def test_the_figure_has_a_dot_for_every_run(tmp_path):
    record = records.read("learning_rate_range")
    figure = front.draw(record)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert sum(len(line.get_xdata()) for line in dots) == len(record["runs"])


def test_a_diverged_run_counts_as_a_guess():
    assert front.accuracy({"metrics": {"test_accuracy": None}}) == 10.0
    assert front.accuracy({"metrics": {"test_accuracy": 0.5}}) == 50.0


def test_the_file_is_text_without_a_date():
    text = front.FILE.read_text()
    assert text.startswith("<?xml") and not re.search(r"<dc:date>", text)
