r"""What changes in a deep linear network with its norm: loss, gradient shift, landscape?

The network of Santurkar et al. (2018, appendix A.1) at its own size: 25 matrices of 10 x 10, Glorot
initialization, 1000 Gaussian examples in one full batch, targets A x, plain gradient descent. The
loss is the squared error summed over the outputs and *averaged* over the examples; for a *sum* over
the examples a rate of r is one of 1000 r here. All rates of one seed train together. Used by
lessons 18 to 20.

| scale | steps |
|---|---|
| quick | 300 |
| cpu | 3,000 |
| full | 10,000, as in the paper; it needs no GPU, but an hour of one core |
"""

import math
from itertools import product
from statistics import median

from torch import nn

from normlab import probes
from normlab.data import linear_teacher
from normlab.experiments.what_the_norm_changes import SMOOTHER, ratios, said, short
from normlab.models import DeepLinear
from normlab.train import train

QUESTION = "What changes in a deep linear network with its norm: loss, gradient shift, landscape?"

RATES = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2)
#: where shift and landscape are compared: the paper's 1e-7 and 1e-6, if its loss is a sum
JUDGED, LARGER = 1e-4, 1e-3
#: norms of lesson 20
LP = ("l1", "linf", "raw l2")
#: gradient shift is measured in these of the 25 matrices
LAYERS = (5, 10, 15, 20, 24)
#: the line: the paper's range, in units of the learning rate
LINE = (0.01, 0.1, 1.0, 3.0, 10.0, 30.0)

#: criteria, fixed before the first run; each must hold in every seed
ALIGNED, APART, CALMER = 0.9, 0.5, 2.0


def _grid(norms, seeds, **fixed) -> list[dict]:
    return [{"norm": n, "rates": list(RATES), "seed": s, **fixed} for n, s in product(norms, seeds)]


_MARKS = [0, 10, 30, 100, 200, 300]
_MORE = [*_MARKS, 400, 600, 1000, 1500, 2000, 3000]
CONFIGS = {
    "quick": _grid(("none", "batch"), range(2), marks=_MARKS),
    "cpu": _grid(("none", "batch", *LP), range(3), marks=_MORE),
    "full": _grid(("none", "batch", *LP), range(3), marks=[*_MORE, 4500, 6000, 8000, 10000]),
}


def load(scale: str):
    """Return the 1000 examples of the teacher."""
    return linear_teacher()


def _outputs(model: nn.Module) -> list[nn.Module]:
    """Return the layers whose outputs enter matrix 6, 13 and 24: norms, or matrices."""
    layers = list(model)
    behind = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    return [layers[behind[number - 1] - 1] for number in (6, 13, 24)]


def _look(models: list[nn.Module], rates: list[float], x, y) -> list[dict]:
    """Probe every network: shift at its rate, and the line of its own range."""
    names = [probes.weight_names(models[0])[number - 1] for number in LAYERS]
    shift = probes.gradient_shift(models, x, y, rates, names)
    found = []
    for r, (model, rate) in enumerate(zip(models, rates, strict=True)):
        line = probes.line(model, x, y, [rate * factor for factor in LINE])
        values = probes.outputs_of(model, _outputs(model), x)
        found.append(
            {
                "loss": line.start[0].item(),
                "cosine": shift.cosine[r].tolist(),
                "relative": shift.relative[r].tolist(),
                "length": line.length[0].item(),
                "losses": line.losses[0].tolist(),
                "changes": line.changes[0].tolist(),
                "moments": [probes.moments(v).mean(1).tolist() for v in values],
            }
        )
    return found


def run(config: dict, data) -> dict:
    """Train all rates of one seed; one entry for each rate, a row for each mark it came to."""
    rates, marks = config["rates"], config["marks"]
    models = [DeepLinear(norm=config["norm"], seed=config["seed"]) for _ in rates]
    rows: list[dict[str, list]] = [{} for _ in rates]
    alive = list(range(len(rates)))
    for before, after in zip([0, *marks[:-1]], marks, strict=True):
        if after > before:
            mine = [models[r] for r in alive]
            lrs = [rates[r] for r in alive]
            gap = {"steps": after - before, "eval_every": after - before}
            runs = train(mine, data, lr=lrs, eval_examples=10, **gap)
            alive = [r for r, one in zip(alive, runs, strict=True) if one.diverged_at is None]
        if not alive:
            break
        mine, lrs = [models[r].train() for r in alive], [rates[r] for r in alive]
        for r, found in zip(alive, _look(mine, lrs, data.x_train, data.y_train), strict=True):
            for name, value in found.items():
                rows[r].setdefault(name, []).append(short(value))
    return {"rates": rows}


def at(run: dict, rate: float) -> dict:
    """Return what was found at one rate."""
    return run["metrics"]["rates"][run["config"]["rates"].index(rate)]


def of(runs: list[dict], norm: str) -> list[dict]:
    """Return the runs of one norm, one for each seed."""
    return [run for run in runs if run["config"]["norm"] == norm]


def final_loss(run: dict) -> float:
    """Return the lowest last loss over the rates that did not diverge."""
    marks = len(run["config"]["marks"])
    losses = [found["loss"] for found in run["metrics"]["rates"]]
    return min(rows[-1] for rows in losses if len(rows) == marks and rows[-1] is not None)


def cosines(run: dict, rate: float) -> list[float]:
    """Return every cosine between G and G' at one rate, over marks and layers."""
    return [value for row in at(run, rate)["cosine"] for value in row if value is not None]


def smoothness(run: dict, rate: float) -> float:
    """Return the median over the marks of the effective smoothness over the line."""
    found = at(run, rate)
    sizes = [rate * factor for factor in LINE]
    return median(
        max((math.inf if c is None else c) / (s * length) for c, s in zip(row, sizes, strict=True))
        for row, length in zip(found["changes"], found["length"], strict=True)
        if length
    )


def loss_range(run: dict, rate: float) -> float:
    """Return the median over the marks of the largest minus the smallest loss on the line."""
    rows = at(run, rate)["losses"]
    return median(math.inf if None in row else max(row) - min(row) for row in rows)


def verdicts(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    """Judge the claims of lessons 18 to 20 on the deep linear network."""
    return _shift(runs) | _landscape(runs) | (_lp(runs) if of(runs, "l1") else {})


def _shift(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    none, batch = of(runs, "none"), of(runs, "batch")
    middle = {
        (name, rate): [median(cosines(run, rate)) for run in group]
        for name, group in (("none", none), ("batch", batch))
        for rate in (JUDGED, LARGER)
    }
    least = [min(cosines(run, JUDGED)) for run in none]
    contrast = min(middle["none", JUDGED]) > ALIGNED and max(middle["batch", JUDGED]) < APART
    return {
        "linear-shift-contrast": (
            contrast,
            f"median cosine at a rate of {JUDGED:g}: {said('no norm', middle['none', JUDGED])}, "
            f"{said('batch norm', middle['batch', JUDGED])}",
        ),
        "linear-shift-never-in-standard": (
            min(least) > ALIGNED,
            said(f"smallest cosine without a norm at a rate of {JUDGED:g}:", least),
        ),
        "linear-shift-in-both": (
            max(middle["none", LARGER]) < APART and max(middle["batch", LARGER]) < APART,
            f"median cosine at a rate of {LARGER:g}: {said('no norm', middle['none', LARGER])}, "
            f"{said('batch norm', middle['batch', LARGER])}",
        ),
    }


def _landscape(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    none, batch = of(runs, "none"), of(runs, "batch")
    measures = {
        "loss": (loss_range, CALMER, "range of the loss on the line"),
        "smoother": (smoothness, SMOOTHER, "effective smoothness constant"),
    }
    found = {}
    for name, (measure, limit, what) in measures.items():
        for rate, end in ((LARGER, ""), (JUDGED, "-small-rate")):
            ratio = ratios([measure(r, rate) for r in none], [measure(r, rate) for r in batch])
            text = said(f"{what} at a rate of {rate:g}, without / with batch norm:", ratio)
            found[f"linear-landscape-{name}{end}"] = min(ratio) >= limit, text
    return found


def _lp(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    losses = {n: [final_loss(run) for run in of(runs, n)] for n in ("none", "batch", *LP)}
    ahead = all(a < b for n in LP for a, b in zip(losses[n], losses["none"], strict=True))
    better = ratios(losses["l1"], losses["batch"])
    middle = ", ".join(f"{n} {median(values):.2g}" for n, values in losses.items())
    return {
        "linear-lp-beat-no-norm": (ahead, f"last loss at the best rate, medians: {middle}"),
        "linear-lp-l1-best": (
            max(better) < 1,
            said("last loss at the best rate, l1 / batch norm:", better),
        ),
    }


if __name__ == "__main__":
    from normlab.experiments import main

    main(__file__)
