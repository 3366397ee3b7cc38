r"""What changes in a VGG with its norm: speed, drift, gradient shift, landscape?

One run per norm, learning rate and seed, with everything that Santurkar et al. (2018) measured
taken from it on the way, without disturbing it (:mod:`normlab.probes`). The same weights at the
start and the same batches for every norm; plain SGD; He initialization. Used by lessons 17 to 20.

| scale | network | data | steps |
|---|---|---|---|
| quick | 8 convolutions, width 8 | digits | 130 of 64 examples |
| cpu | VGG-11, width 16 | CIFAR-10 | 400 of 64 examples |
| full | VGG-11, width 64 | CIFAR-10 | 15,000 of 128 examples |

Values are taken from one fixed batch of training images, in training mode: moments of what enters
the activation of three convolutions every ``every`` steps; the rest at the steps in ``marks``.
"""

import math
from itertools import product
from statistics import median

import torch
from torch import nn

from normlab import probes
from normlab.data import cifar10, digits
from normlab.models import VGG
from normlab.train import train

QUESTION = "What changes in a VGG with its norm: speed, drift, gradient shift, landscape?"

#: norms in question; the first four with all probes, the others along the gradient only
NOISE = ("none", "batch", "noisy batch", "noise")
LP = ("l1", "linf", "raw l2")
PROBES = ("drift", "shift", "line")

#: step sizes of the line: the paper's range for a rate of 0.1, and steps far smaller; and of a line
#: in a random direction
LARGE = (0.05, 0.1, 0.2, 0.4)
SMALL = (0.003, 0.03)
RANDOM = (0.05, 0.4)

#: criteria; each must hold in every seed, and a network learns if its loss falls by so many nats
CALMER, SMOOTHER, AS_FAST, LEARNS = 2.0, 1.2, 1.5, 0.1


def grid(norms, rates, seeds, measure=PROBES, **fixed) -> list[dict]:
    """Return one configuration for each norm, rate and seed."""
    return [
        {"norm": norm, "lr": lr, "seed": seed, "measure": list(measure), **fixed}
        for norm, lr, seed in product(norms, rates, seeds)
    ]


def _both(rates, lp_rates, seeds, **fixed) -> list[dict]:
    lp = grid(LP, lp_rates, seeds, ("line",), **fixed)
    return grid(NOISE, rates, seeds, **fixed) + lp


DIGITS = {"plan": [1, 1, "M", 2, 2, "M", 4, 4, 4, 4], "width": 8, "steps": 130, "batch_size": 64}
DIGITS |= {"every": 2, "marks": list(range(2, 131, 8)), "probe": 128, "trains_at": 0.9}
_CPU = {"plan": 11, "width": 16, "steps": 400, "batch_size": 64, "every": 4, "probe": 128}
_CPU |= {"marks": [1, 25, 75, 150, 250, 400], "trains_at": 0.4}
_FULL = {"plan": 11, "width": 64, "steps": 15000, "batch_size": 128, "every": 50, "probe": 512}
_FULL |= {"marks": [1, 50, 200, *range(1000, 15001, 1000)], "trains_at": 0.9}

CONFIGS = {
    "quick": grid(("none", "batch"), (0.1,), range(2), **DIGITS),
    "cpu": _both((0.01, 0.03, 0.1), (0.03, 0.1, 0.3), range(3), **_CPU),
    "full": _both((0.01, 0.1, 0.5), (0.01, 0.1, 0.5), range(3), **_FULL),
}


def load(scale: str):
    """Return the digits for the quick scale, else CIFAR-10."""
    return digits() if scale == "quick" else cifar10()


def build(config: dict, data) -> nn.Module:
    """Return the network of a configuration; batch norm is torch's own, the same and faster."""
    norm = "torch.batch" if config["norm"] == "batch" else config["norm"]
    plan = config["plan"] if isinstance(config["plan"], int) else tuple(config["plan"])
    channels = data.x_train.shape[1]
    network = VGG(plan, config["width"], norm=norm, channels=channels, seed=config["seed"])
    return network.to(data.x_train.device, memory_format=torch.channels_last)


def before_activation(model: nn.Module) -> list[nn.Module]:
    """Return the layers whose outputs enter a ReLU, from input to output: norms or convolutions."""
    layers = list(model)
    return [layers[i - 1] for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]


def three(layers: list) -> list:
    """Return an early, a middle and the last entry."""
    return [layers[len(layers) // 4], layers[len(layers) // 2], layers[-1]]


def short(value):
    """Round to four digits, also within lists."""
    return [short(v) for v in value] if isinstance(value, list) else float(f"{value:.4g}")


class _Probe:
    """Looks at one network while it trains; called after each step."""

    def __init__(self, config: dict, data, model: nn.Module):
        self.config, self.model = config, model
        self.x = data.x_train[: config["probe"]].contiguous(memory_format=torch.channels_last)
        self.y = data.y_train[: config["probe"]]
        self.layers = three(before_activation(model))
        self.history: list[list[torch.Tensor]] = []
        self.found: dict[str, list] = {}

    def __call__(self, step: int) -> None:
        self.model.train()
        if "drift" in self.config["measure"] and step % self.config["every"] == 0:
            values = probes.outputs_of(self.model, self.layers, self.x, seed=step)
            self.history.append([probes.moments(v) for v in values])
        if step in self.config["marks"]:
            if "shift" in self.config["measure"]:
                self.shift()
            if "line" in self.config["measure"]:
                self.line()

    def shift(self) -> None:
        """Gradient shift of every layer but the first, at the learning rate of the run."""
        names = probes.weight_names(self.model)[1:]
        shift = probes.gradient_shift(self.model, self.x, self.y, self.config["lr"], names)
        for name in ("distance", "cosine"):
            row = short(getattr(shift, name)[0].tolist())
            self.found.setdefault(f"shift_{name}", []).append(row)

    def line(self) -> None:
        """Loss and gradient along the gradient, and along a random direction."""
        ways = {"line": (SMALL + LARGE, None), "random": (RANDOM, self.config["seed"])}
        for way, (sizes, seed) in ways.items():
            line = probes.line(self.model, self.x, self.y, sizes, seed)
            for name in ("start", "length", "losses", "changes"):
                row = short(getattr(line, name)[0].tolist())
                self.found.setdefault(f"{way}_{name}", []).append(row)

    def drifts(self) -> dict:
        """Drift of each of the three layers, [means, deviations]: medians over the run, and curve.

        Lags are counted in entries of the history, ``every`` steps apart.
        """
        if len(self.history) < 20:
            return {}
        found = {}
        for place, columns in zip(
            ("early", "middle", "late"), zip(*self.history, strict=True), strict=True
        ):
            layer = torch.stack(columns)
            for lag in (1, 5, 25):
                if lag < len(layer):
                    middle = probes.drift(layer, lag).nanmedian(0).values
                    found[f"drift_{place}_{lag}"] = short(middle.tolist())
            curve = probes.drift(layer, None)[:: len(layer) // 10]
            found[f"drift_{place}_start"] = short(curve.tolist())
        return found


def run(config: dict, data) -> dict:
    """Train one network and return what the probes found; ``null`` where a run diverged."""
    model = build(config, data)
    probe = _Probe(config, data, model)
    every = max(1, config["steps"] // 20) if data.x_train.shape[1] > 1 else 5
    trained = train(
        model,
        data,
        lr=config["lr"],
        steps=config["steps"],
        batch_size=config["batch_size"],
        seed=config["seed"],
        eval_every=every,
        eval_examples=1000,
        after_step=probe if config["measure"] else None,
        fast=config["steps"] > 1000,
    )
    return {
        "steps_to": trained.steps_to(config["trains_at"]),
        "eval_steps": trained.steps,
        "train_accuracy": trained.train_accuracy,
        "test_accuracy": trained.test_accuracy,
        "batch_loss": trained.batch_loss[:: max(1, config["steps"] // 100)],
        "diverged_at": trained.diverged_at,
        **probe.found,
        **probe.drifts(),
    }


def pick(runs: list[dict], norm: str, lr: float | None = None) -> list[dict]:
    """Return one run for each seed: at one rate, or at the rate with the lowest :func:`tail_loss`."""
    mine = [run for run in runs if run["config"]["norm"] == norm]
    mine = [run for run in mine if lr is None or run["config"]["lr"] == lr]
    seeds = sorted({run["config"]["seed"] for run in mine})
    return [min((r for r in mine if r["config"]["seed"] == s), key=tail_loss) for s in seeds]


def tail_loss(run: dict) -> float:
    """Return the mean training loss over the last fifth of a run, with noise where there is noise."""
    losses = run["metrics"]["batch_loss"]
    last = losses[-(len(losses) // 5) :]
    return math.inf if None in last else sum(last) / len(last)


def steps_to(run: dict) -> float:
    """Return the steps to ``trains_at``, in evaluation mode; infinity where they did not suffice."""
    steps = run["metrics"]["steps_to"]
    return math.inf if steps is None else steps


def fewest_steps(runs: list[dict], norm: str) -> list[float]:
    """Return, for each seed, the fewest steps to ``trains_at`` at any rate."""
    mine = [run for run in runs if run["config"]["norm"] == norm]
    seeds = sorted({run["config"]["seed"] for run in mine})
    return [min(steps_to(r) for r in mine if r["config"]["seed"] == seed) for seed in seeds]


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Return one ratio for each seed; 1 where both are infinite."""
    return [1.0 if a == b else a / b for a, b in zip(above, below, strict=True)]


def said(name: str, values: list[float]) -> str:
    """Write the range of one value per seed."""
    return f"{name} {min(values):.2g} to {max(values):.2g} ({len(values)} seeds)"


def points(run: dict, name: str, sizes: tuple[float, ...]) -> list[list[float]]:
    """Return ``losses`` or ``changes`` at some step sizes of the line, a row for each mark."""
    places = [(SMALL + LARGE).index(size) for size in sizes]
    rows = run["metrics"][f"line_{name}"]
    return [[math.inf if row[p] is None else row[p] for p in places] for row in rows]


def smoothness(run: dict, sizes: tuple[float, ...] = LARGE) -> float:
    """Return the median over the marks of the effective smoothness over some step sizes."""
    lengths, changes = run["metrics"]["line_length"], points(run, "changes", sizes)
    return median(
        max(change / (size * length) for change, size in zip(row, sizes, strict=True))
        for row, length in zip(changes, lengths, strict=True)
        if length
    )


def loss_range(run: dict, sizes: tuple[float, ...] = LARGE) -> float:
    """Return the median over the marks of the largest minus the smallest loss on the line."""
    rows = points(run, "losses", sizes)
    return median(max(row) - min(row) if math.inf not in row else math.inf for row in rows)


def shift(run: dict, kind: str = "distance") -> float:
    """Return the median over the marks of the mean gradient shift of the layers but the first."""
    rows = [row for row in run["metrics"][f"shift_{kind}"] if None not in row]
    return median(sum(row) / len(row) for row in rows) if rows else math.inf


def drift(run: dict, lag: int, which: int) -> list[float]:
    """Return the drift of the means (which = 0) or deviations (1) of the three layers."""
    return [run["metrics"][f"drift_{place}_{lag}"][which] for place in ("early", "middle", "late")]


def verdicts(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    """Judge the claims of lessons 17 to 20, each network at its own best rate unless said."""
    noise = _noise(runs) if any(r["config"]["norm"] == "noise" for r in runs) else {}
    return noise | _shift(runs) | _landscape(runs) | _lp(runs)


def _noise(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    none, noisy = pick(runs, "none"), pick(runs, "noisy batch")
    found = {}
    for name, which, lag in (("means", 0, 1), ("means-long", 0, 25), ("deviations", 1, 1)):
        pairs = [
            ratios(drift(b, lag, which), drift(a, lag, which))
            for a, b in zip(none, noisy, strict=True)
        ]
        least = [min(pair) for pair in pairs]
        steps = lag * runs[0]["config"]["every"]
        text = f"noisy batch norm / no norm, least of three depths, lag of {steps} steps:"
        found[f"noisy-{name}-move-more"] = min(least) > 1, said(text, least)
    ahead = [tail_loss(a) - tail_loss(b) for a, b in zip(none, noisy, strict=True)]
    late = [
        a["metrics"]["train_accuracy"][-1] - b["metrics"]["train_accuracy"][-1]
        for a, b in zip(none, noisy, strict=True)
    ]
    noise = [tail_loss(run) for run in runs if run["config"]["norm"] == "noise"]
    text = f"lowest training loss of {len(noise)} runs without a norm, but with the noise:"
    return found | {
        "noisy-trains-faster": (
            min(ahead) > 0,
            said("training loss in nats, without norm minus noisy batch norm:", ahead),
        ),
        "noisy-lost-in-evaluation": (
            min(late) > 0,
            said("accuracy in evaluation mode, without norm minus noisy batch norm:", late),
        ),
        "noise-stops-standard": (
            min(noise) > math.log(10) - LEARNS,
            f"{text} {min(noise):.3g} nats; guessing has 2.303",
        ),
    }


def _shift(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    found = {}
    for name, lr, sign in (("larger-at-small", 0.01, 1), ("smaller-at-large", 0.1, -1)):
        values = [[shift(r) for r in pick(runs, norm, lr)] for norm in ("batch", "none")]
        ratio = ratios(*values)
        holds = all((r - 1) * sign > 0 for r in ratio)
        text = said(f"shift with / without batch norm at a rate of {lr:g}:", ratio)
        found[f"shift-{name}-rate"] = holds, text
    return found


def _landscape(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    none, batch = pick(runs, "none"), pick(runs, "batch")
    calmer = ratios([*map(loss_range, none)], [*map(loss_range, batch)])
    smoother = ratios([*map(smoothness, none)], [*map(smoothness, batch)])
    tiny = ratios([smoothness(r, SMALL) for r in none], [smoothness(r, SMALL) for r in batch])
    return {
        "loss-varies-less": (
            min(calmer) >= CALMER,
            said("range of the loss on the line, without / with batch norm:", calmer),
        ),
        "landscape-smoother": (
            min(smoother) >= SMOOTHER,
            said("effective smoothness constant, without / with batch norm:", smoother),
        ),
        "tiny-steps-reverse": (
            max(tiny) < 1,
            said("the same over steps of at most 0.03 gradients:", tiny),
        ),
    }


def _lp(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    steps = {n: fewest_steps(runs, n) for n in ("none", "batch", *LP)}
    rough = [smoothness(run) for run in pick(runs, "none")]
    slower = {n: ratios(steps[n], steps["batch"]) for n in LP}
    smoother = {n: ratios(rough, [smoothness(r) for r in pick(runs, n)]) for n in LP}
    ahead = all(a < b for n in LP for a, b in zip(steps[n], steps["none"], strict=True))
    worst = {n: f"{max(values):.2g}" for n, values in slower.items()}
    least = {n: f"{min(values):.2g}" for n, values in smoother.items()}
    return {
        "lp-train-as-fast": (
            max(map(max, slower.values())) <= AS_FAST,
            f"steps, divided by those of batch norm, worst seed: {_list(worst)}",
        ),
        "lp-beat-no-norm": (
            ahead,
            "steps, medians: " + _list({n: f"{median(values):g}" for n, values in steps.items()}),
        ),
        "lp-smoother": (
            min(map(min, smoother.values())) >= SMOOTHER,
            f"effective smoothness constant, no norm / norm, least seed: {_list(least)}",
        ),
    }


def _list(texts: dict[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in texts.items())


if __name__ == "__main__":
    from normlab.experiments import main

    main(__file__)
