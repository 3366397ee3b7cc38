"""Figures: one function per kind, ``(ax, data) -> ax``; the look stands in ``course.mplstyle``.

Colour means the normalization, everywhere. Line style means the split: train solid, test dashed.
Every spread that is shown is the range over seeds, from the smallest to the largest value.
"""

from collections.abc import Sequence
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np

#: the colour of each normalization
COLORS = {
    "none": "#777777",
    "batch": "#0072B2",
    "layer": "#D55E00",
    "group": "#009E73",
    "weight": "#CC79A7",
    "noisy batch": "#56B4E9",
    "cosine": "#E69F00",
    "position": "#F08A5D",
    "rms": "#8C510A",
    "instance": "#332288",
    "mean-only": "#882255",
    "centered cosine": "#B8A000",
    "noise": "#CC6677",
    "l1": "#1B9E9E",
    "l2": "#004488",
    "linf": "#222222",
    "raw l1": "#C44E52",
    "raw l2": "#B07AA1",
    "raw linf": "#CC88BB",
}

#: the style of each split
SPLITS = {"train": "-", "test": "--"}

#: how each normalization is called in a figure
LABELS = {
    "none": "no norm",
    "batch": "batch norm",
    "layer": "layer norm",
    "position": "layer norm per position",
    "rms": "RMS norm",
    "group": "group norm",
    "instance": "instance norm",
    "weight": "weight norm",
    "mean-only": "weight norm, mean-only batch norm",
    "cosine": "cosine norm",
    "centered cosine": "centered cosine norm",
    "noisy batch": "noisy batch norm",
    "noise": "noise, no norm",
    "l1": "ℓ1 norm",
    "l2": "ℓ2 norm",
    "linf": "ℓ∞ norm",
    "raw l1": "raw ℓ1 norm",
    "raw l2": "raw ℓ2 norm",
    "raw linf": "raw ℓ∞ norm",
}


def style() -> None:
    """Give every figure that follows the look of the course."""
    plt.style.use(str(files("normlab").joinpath("course.mplstyle")))


def spread(ax, x: Sequence, curves: Sequence, *, color=None, linestyle="-", label=None):
    """Draw the median of several curves and, shaded, their range.

    Args:
        x: positions (T,).
        curves: one row per seed (R, T); NaN where a run has no value.
        label: written at the right end of the median line.
    """
    rows = np.asarray(curves, dtype=float)
    (line,) = ax.plot(x, np.nanmedian(rows, axis=0), linestyle, color=color)
    low, high = np.nanmin(rows, axis=0), np.nanmax(rows, axis=0)
    ax.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return name_line(ax, line, label)


def sweep(ax, x: Sequence, values: Sequence, *, color=None, linestyle="-", label=None):
    """Draw one dot per run and a line through the medians, over a swept setting.

    Args:
        x: values of the setting (K,), drawn on a log axis.
        values: one row per setting, one entry per seed (K, R); NaN: no value, no dot.
        label: written at the right end of the line.
    """
    rows = np.asarray(values, dtype=float)
    (line,) = ax.plot(x, np.median(rows, axis=1), linestyle, color=color)
    dots = np.repeat(np.asarray(x, dtype=float), rows.shape[1])
    ax.plot(dots, rows.ravel(), "o", color=line.get_color(), alpha=0.45, markeredgewidth=0)
    ax.set_xscale("log")
    return name_line(ax, line, label)


def name_line(ax, line, label: str | None):
    """Write a line's name beside its last finite point, in its colour."""
    if label:
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        last = np.flatnonzero(np.isfinite(y))[-1]
        ax.annotate(
            label,
            (x[last], y[last]),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=line.get_color(),
            annotation_clip=False,
        )
    return ax
