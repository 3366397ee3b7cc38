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


def test_every_colour_of_the_course_is_different():
    assert len(set(plots.COLORS.values())) == len(plots.COLORS)
