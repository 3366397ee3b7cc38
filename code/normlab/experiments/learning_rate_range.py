"""Over which learning rates does a network train, with and without batch norm?

The same network, the same weights at the start and the same batches, with and without a norm, over
a grid of learning rates in half decades. A run *trains* if its training accuracy at the end is at
least ``trains_at``; a run that diverges (see :mod:`normlab.train`) does not. Plain SGD, He
initialization.

| scale | network | data | steps |
|---|---|---|---|
| quick | MLP, 6 hidden layers of 64 | digits | 200 of 64 examples |
| cpu | VGG-11, width 16 | CIFAR-10 | 600 of 64 examples |
| full | VGG-11, width 64 | CIFAR-10 | 5865 of 128 examples (15 epochs) |
"""

import math
from itertools import product
from statistics import median

import torch

from normlab import records
from normlab.data import cifar10, digits
from normlab.models import MLP, VGG
from normlab.train import train

QUESTION = "Over which learning rates does a network train, with and without batch norm?"

NORMS = ("none", "batch")
DECADES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)

#: the largest working rate with batch norm must be one step of the grid (3x) larger, at least
WIDER = 2.9
#: at its own best rate the standard network must need at least this many times more steps
FASTER = 1.5


def _grid(seeds: range, rates=DECADES, **fixed) -> list[dict]:
    grid = product(NORMS, rates, seeds)
    return [{"norm": norm, "lr": lr, "seed": seed, **fixed} for norm, lr, seed in grid]


CONFIGS = {
    "quick": _grid(
        range(5), (*DECADES, 10.0), depth=6, width=64, steps=200, batch_size=64, trains_at=0.9
    ),
    "cpu": _grid(range(3), depth=11, width=16, steps=600, batch_size=64, trains_at=0.4),
    "full": _grid(range(5), depth=11, width=64, steps=5865, batch_size=128, trains_at=0.8),
}


def load(scale: str):
    """Return the digits for the quick scale, else CIFAR-10."""
    return digits() if scale == "quick" else cifar10()


def build(config: dict, data) -> torch.nn.Module:
    """Return the network of a configuration: an MLP for digits, a VGG for photographs.

    The VGG takes torch's own batch norm, which is the same function and faster.
    """
    depth, width, norm, seed = (config[key] for key in ("depth", "width", "norm", "seed"))
    channels, height, breadth = data.x_train.shape[1:]
    device = data.x_train.device
    if channels == 1:
        sizes = (height * breadth, *[width] * depth, len(data.classes))
        return MLP(sizes, norm=norm, seed=seed).to(device)
    norm = "torch.batch" if norm == "batch" else norm
    network = VGG(depth, width, norm=norm, channels=channels, seed=seed)
    return network.to(device, memory_format=torch.channels_last)


def measure(config: dict, run) -> dict:
    """Return the metrics of a finished run; accuracies are fractions, ``None`` means never."""
    final = run.train_accuracy[-1]
    test = [accuracy for accuracy in run.test_accuracy if math.isfinite(accuracy)]
    return records.plain(
        {
            "train_accuracy": final,
            "test_accuracy": run.test_accuracy[-1],
            "best_test_accuracy": max(test),
            "train_loss": run.train_loss[-1],
            "steps_to": run.steps_to(config["trains_at"]),
            "diverged_at": run.diverged_at,
            "steps": config["steps"],
        }
    )


def together(configs: list[dict], data) -> list[dict]:
    """Train all configurations, those with the same norm in one call; return one run for each.

    Evaluates on 500 examples at the quick scale, on 1000 with CIFAR-10.
    """
    runs = []
    for norm in NORMS:
        group = [config for config in configs if config["norm"] == norm]
        if not group:
            continue
        steps, batch_size = group[0]["steps"], group[0]["batch_size"]
        trained = train(
            [build(config, data) for config in group],
            data,
            lr=[config["lr"] for config in group],
            seed=[config["seed"] for config in group],
            steps=steps,
            batch_size=batch_size,
            eval_every=max(1, steps // 15) if data.x_train.shape[1] > 1 else 10,
            eval_examples=1000 if data.x_train.shape[1] > 1 else 500,
        )
        runs += [
            {"config": config, "metrics": measure(config, run), "seconds": run.seconds}
            for config, run in zip(group, trained, strict=True)
        ]
    return runs


def run(config: dict, data) -> dict:
    """Train one configuration and return its metrics."""
    return together([config], data)[0]["metrics"]


def trains(entry: dict) -> bool:
    """Tell whether a run reached the accuracy fixed beforehand, and kept it to the end."""
    final = entry["metrics"]["train_accuracy"]
    return final is not None and final >= entry["config"]["trains_at"]


def by_seed(runs: list[dict], norm: str) -> list[list[dict]]:
    """Return the runs of one norm as one list per seed, in the order of the seeds."""
    mine = [entry for entry in runs if entry["config"]["norm"] == norm]
    seeds = sorted({entry["config"]["seed"] for entry in mine})
    return [[entry for entry in mine if entry["config"]["seed"] == seed] for seed in seeds]


def largest_rates(runs: list[dict], norm: str) -> list[float]:
    """Return, for each seed, the largest learning rate that trains; 0 where none does."""
    return [
        max((entry["config"]["lr"] for entry in group if trains(entry)), default=0.0)
        for group in by_seed(runs, norm)
    ]


def fewest_steps(runs: list[dict], norm: str) -> list[float]:
    """Return, for each seed, the steps to ``trains_at`` at the best rate of that seed."""
    return [
        min(entry["metrics"]["steps_to"] or math.inf for entry in group)
        for group in by_seed(runs, norm)
    ]


def verdicts(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    """Judge the claims: the range of learning rates, and the speed at the best one."""
    standard, normed = largest_rates(runs, "none"), largest_rates(runs, "batch")
    wider = [b / a if a else math.inf for a, b in zip(standard, normed, strict=True)]
    slow, fast = fewest_steps(runs, "none"), fewest_steps(runs, "batch")
    faster = [a / b for a, b in zip(slow, fast, strict=True)]
    return {
        "wider-learning-rates": (
            all(ratio >= WIDER for ratio in wider),
            f"largest rate that trains: {median(standard):g} without, {median(normed):g} with "
            f"batch norm (medians); ratio {min(wider):.0f} to {max(wider):.0f} "
            f"over {len(wider)} seeds",
        ),
        "faster-at-best-rate": (
            all(ratio >= FASTER for ratio in faster),
            f"steps at the best rate: {median(slow):g} without, {median(fast):g} with batch norm "
            f"(medians); ratio {min(faster):.1f} to {max(faster):.1f} over {len(faster)} seeds",
        ),
    }


if __name__ == "__main__":
    from normlab.experiments import main

    main(__file__)
