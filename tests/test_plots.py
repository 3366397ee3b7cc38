"""Figures: the numbers drawn are the numbers given."""

import matplotlib
import numpy as np
import pytest

from normlab import plots

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture
def ax():
    plots.style()
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_spread_draws_the_median_and_the_range(ax):
    plots.spread(ax, [0, 1, 2], [[1, 2, 3], [2, 4, np.nan], [3, 9, 5]], label="batch norm")
    assert ax.lines[0].get_ydata().tolist() == [2, 4, 4]
    band = ax.collections[0].get_paths()[0].vertices
    for x, low, high in ((0, 1, 3), (1, 2, 9), (2, 3, 5)):
        assert {low, high} <= set(band[band[:, 0] == x, 1])
    assert ax.texts[0].get_text() == "batch norm"


def test_sweep_draws_every_seed_and_the_median_on_a_log_axis(ax):
    plots.sweep(ax, [0.1, 1.0], [[1, 2, 6], [3, 4, 5]])
    line, dots = ax.lines
    assert line.get_ydata().tolist() == [2, 4]
    assert sorted(dots.get_ydata()) == [1, 2, 3, 4, 5, 6]
    assert ax.get_xscale() == "log"


def test_a_name_stands_at_the_last_finite_point(ax):
    (line,) = ax.plot([1, 2, 3], [4, 5, np.nan])
    plots.name_line(ax, line, "none")
    assert tuple(ax.texts[0].xy) == (2, 5)


def test_histogram_is_a_density_and_names_each_sample(ax):
    rng = np.random.default_rng(0)
    plots.histogram(ax, {"none": rng.normal(3, 1, 5000), "batch": rng.normal(0, 1, 5000)})
    assert [text.get_text() for text in ax.texts] == ["none", "batch"]
    heights, edges, _ = ax.patches[0].get_data()
    assert np.sum(heights * np.diff(edges)) == pytest.approx(1, abs=1e-9)


def test_every_colour_of_the_course_is_different():
    assert len(set(plots.COLORS.values())) == len(plots.COLORS)


def test_a_record_in_a_figure_names_its_source(ax):
    record = {
        "experiment": "toy", "scale": "cpu", "device": "CPU", "torch": "2", "date": "2026-01-01",
        "commit": "abc", "data": {"name": "toy data", "sha256": "0" * 64},
        "runs": [{"config": {"seed": 4}, "seconds": 3600.0}],
    }  # fmt: skip
    plots.source_line(ax, record)
    text = ax.texts[0].get_text()
    assert "toy data" in text and "seeds 4" in text and "1.00 h of CPU" in text
