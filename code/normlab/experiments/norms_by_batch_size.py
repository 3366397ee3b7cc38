"""How does the accuracy of each normalization depend on the batch size?

The same convolutional network, the same weights at the start and the same number of examples seen,
with every norm of the course, in batches of 2 to 512. Plain SGD at three learning rates,
``rate * sqrt(batch_size / 32)``; every norm is judged at its own best rate for each batch size, the
one with the highest median *training* accuracy. Weight norm starts from data (500 examples).

| scale | network | data | examples seen | norms |
|---|---|---|---|---|
| quick | VGG (8, 16, 16 channels) | digits | 1,280 | batch, group |
| cpu | VGG (8, 16, 32, 64, 64 channels) | CIFAR-10, 20,000 images | 20,480 | all |
| full | VGG-11 (64 to 512 channels) | CIFAR-10 | 50,000 | all |

The full scale has not been timed; small batches make it hours on one GPU.
"""

from itertools import product
from statistics import median

import torch

from normlab import records
from normlab.data import cifar10, digits
from normlab.layers import init_by_data
from normlab.models import VGG
from normlab.train import train

QUESTION = "How does the accuracy of each normalization depend on the batch size?"

NORMS = ("none", "batch", "layer", "rms", "group", "instance", "weight", "cosine")
SIZES = (2, 8, 32, 128, 512)
RATES = (0.02, 0.06, 0.2)
PLANS = {"small": (1, "M", 2, 2), "medium": (1, "M", 2, "M", 4, "M", 8, "M", 8), "VGG-11": 11}


def _grid(norms=NORMS, sizes=SIZES, rates=RATES, **fixed) -> list[dict]:
    grid = product(sizes, norms, rates, range(3))
    return [
        {"norm": norm, "batch_size": size, "rate": rate, "seed": seed, **fixed}
        for size, norm, rate, seed in grid
    ]


CONFIGS = {
    "quick": _grid(("batch", "group"), (2, 32), plan="small", width=8, examples=1280),
    "cpu": _grid(plan="medium", width=8, examples=20480),
    "full": _grid(plan="VGG-11", width=64, examples=50000),
}


def load(scale: str):
    """Return the digits for the quick scale, else CIFAR-10."""
    if scale == "quick":
        return digits()
    return cifar10(train=20000, test=4000) if scale == "cpu" else cifar10()


def build(config: dict, data) -> torch.nn.Module:
    """Return the network; torch's own layers, the same function and faster, where it has them."""
    norm = config["norm"]
    norm = f"torch.{norm}" if norm in ("batch", "layer", "group", "instance") else norm
    network = VGG(
        PLANS[config["plan"]],
        config["width"],
        norm=norm,
        channels=data.x_train.shape[1],
        seed=config["seed"],
    )
    network.to(data.x_train.device, memory_format=torch.channels_last)
    if norm == "weight":
        init_by_data(network, data.x_train[:500])
    return network


def run(config: dict, data) -> dict:
    """Train one configuration; accuracies are fractions of at most 4,000 examples."""
    size = config["batch_size"]
    trained = train(
        build(config, data),
        data,
        lr=config["rate"] * (size / 32) ** 0.5,
        steps=config["examples"] // size,
        batch_size=size,
        seed=config["seed"],
        eval_every=config["examples"],
        eval_examples=4000,
    )
    return records.plain(
        {
            "train_accuracy": trained.train_accuracy[-1],
            "test_accuracy": trained.test_accuracy[-1],
            "train_loss": trained.train_loss[-1],
            "diverged_at": trained.diverged_at,
        }
    )


def best_rate(runs: list[dict], norm: str, size: int) -> float:
    """Return the rate with the highest median training accuracy; a diverged run counts as 0."""
    mine = [r for r in runs if (r["config"]["norm"], r["config"]["batch_size"]) == (norm, size)]
    rates = sorted({run["config"]["rate"] for run in mine})

    def score(rate):
        found = [r["metrics"]["train_accuracy"] or 0.0 for r in mine if r["config"]["rate"] == rate]
        return median(found)

    return max(rates, key=score)


def accuracies(runs: list[dict], norm: str, size: int) -> list[float]:
    """Return the test accuracy at the best rate, one for each seed; a diverged run counts as 0."""
    wanted = (norm, size, best_rate(runs, norm, size))
    keys = ("norm", "batch_size", "rate")
    mine = [run for run in runs if tuple(run["config"][key] for key in keys) == wanted]
    return [run["metrics"]["test_accuracy"] or 0.0 for run in mine]


def verdicts(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    """Judge what Wu & He (2018) report, on our networks: every seed must agree."""
    found = {(norm, n): accuracies(runs, norm, n) for norm in ("batch", "group") for n in (2, 32)}
    drop = {
        norm: [big - small for big, small in zip(found[norm, 32], found[norm, 2], strict=True)]
        for norm in ("batch", "group")
    }

    def pairs(one: list[float], other: list[float]) -> list[tuple[float, float]]:
        return list(zip(one, other, strict=True))

    def text(norm: str, n: int) -> str:
        low, high = min(found[norm, n]), max(found[norm, n])
        return f"{norm} norm in batches of {n}: {low:.1%} to {high:.1%}"

    seeds = f"{len(drop['batch'])} seeds"
    return {
        "group-norm-flatter": (
            all(group < batch for group, batch in pairs(drop["group"], drop["batch"])),
            "test accuracy lost from batches of 32 to batches of 2: "
            + "; ".join(f"{n} norm {min(d):+.1%} to {max(d):+.1%}" for n, d in drop.items())
            + f" ({seeds})",
        ),
        "group-norm-ahead-at-two": (
            all(group > batch for group, batch in pairs(found["group", 2], found["batch", 2])),
            f"{text('batch', 2)}; {text('group', 2)} ({seeds})",
        ),
        "batch-norm-ahead-at-32": (
            all(batch > group for group, batch in pairs(found["group", 32], found["batch", 32])),
            f"{text('batch', 32)}; {text('group', 32)} ({seeds})",
        ),
    }


if __name__ == "__main__":
    from normlab.experiments import main

    main(__file__)
