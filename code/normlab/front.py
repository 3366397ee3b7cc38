"""The figure of the landing page and of the README, drawn from its record.

``python -m normlab.front`` writes ``assets/what-batch-norm-does.svg``. The file is text, and the
same record always gives the same file, so a test can tell when it is out of date.
"""

from pathlib import Path

import matplotlib

from normlab import plots, records

FILE = Path(__file__).resolve().parents[2] / "assets" / "what-batch-norm-does.svg"


def draw(record: dict):
    """Draw the final test accuracy over the learning rate, with and without batch norm."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(5.2, 3.3))
    for norm, place in (("none", (0.17, 33)), ("batch", (0.36, 48))):
        runs = [run for run in record["runs"] if run["config"]["norm"] == norm]
        rates = sorted({run["config"]["lr"] for run in runs})
        values = [[accuracy(run) for run in runs if run["config"]["lr"] == rate] for rate in rates]
        plots.sweep(ax, rates, values, color=plots.COLORS[norm])
        ax.text(*place, plots.LABELS[norm], color=plots.COLORS[norm], weight="bold")
    ax.axhline(10, color="#999999", linestyle=":", linewidth=1.2)
    ax.text(rates[0], 11, "guessing", color="#777777", fontsize=8.5)
    ax.set(xlabel="learning rate", ylabel="test accuracy (%)", ylim=(0, None))
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    return figure


def accuracy(run: dict) -> float:
    """Return the final test accuracy in percent; a run that diverged guesses, one in ten."""
    value = run["metrics"]["test_accuracy"]
    return 10.0 if value is None else 100 * value


def write(path: Path = FILE) -> Path:
    """Draw the figure from ``results/learning_rate_range.json`` and write it as SVG."""
    with matplotlib.rc_context():
        matplotlib.use("agg")
        plots.style()
        matplotlib.rcParams["svg.hashsalt"] = "batch norm, executed"
        figure = draw(records.read("learning_rate_range"))
        figure.savefig(path, metadata={"Date": None})
    return path


if __name__ == "__main__":
    print(f"written: {write()}")
