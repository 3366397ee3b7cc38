"""How deep can a plain network be with each normalization?

A ReLU MLP without shortcuts, He initialization, plain SGD, for every norm and depth over a grid of
learning rates. The networks of one configuration differ in the rate alone and train as one stack.
The best rate is the one with the highest *training* accuracy. Weight norm and its mean-only
companion start from data (500 examples); "weight, He start" is weight norm that computes at the
start what the network without a norm computes.

| scale | hidden layers | width | data | steps | seeds |
|---|---|---|---|---|---|
| quick | 2, 20 | 64 | digits | 200 of 64 examples | 3 |
| cpu | 2, 5, 10, 20, 40 | 64 | CIFAR-10, 20,000 images | 500 of 64 examples | 3 |
| full | 2, 5, 10, 20, 40 | 256 | CIFAR-10 | 2000 of 128 examples | 5 |
"""

from itertools import product

from normlab import records
from normlab.data import cifar10, digits
from normlab.layers import init_by_data
from normlab.models import MLP
from normlab.train import train

QUESTION = "How deep can a plain network be with each normalization?"

NORMS = (
    *("none", "batch", "layer", "rms", "group"),
    *("weight", "mean-only", "cosine", "centered cosine"),
    "weight, He start",
)
DEPTHS = (2, 5, 10, 20, 40)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

#: the claims are judged on networks with this many hidden layers
JUDGED = 20
#: by at least this much must one norm be ahead of another, in every seed
AHEAD = 0.02


def _grid(norms=NORMS, depths=DEPTHS, seeds: int = 3, **fixed) -> list[dict]:
    grid = product(depths, norms, range(seeds))
    return [
        {"norm": norm, "depth": depth, "rates": list(RATES), "seed": seed, **fixed}
        for depth, norm, seed in grid
    ]


CONFIGS = {
    "quick": _grid(
        ("none", "batch", "layer", "weight", "weight, He start"),
        (2, 20),
        width=64,
        steps=200,
        batch_size=64,
    ),
    "cpu": _grid(width=64, steps=500, batch_size=64),
    "full": _grid(seeds=5, width=256, steps=2000, batch_size=128),
}


def load(scale: str):
    """Return the digits for the quick scale, else CIFAR-10."""
    if scale == "quick":
        return digits()
    return cifar10(train=20000, test=4000) if scale == "cpu" else cifar10()


def build(config: dict, data) -> MLP:
    """Return the network of a configuration."""
    inputs = data.x_train[0].numel()
    sizes = (inputs, *[config["width"]] * config["depth"], len(data.classes))
    norm, _, start = config["norm"].partition(", ")
    network = MLP(sizes, norm=norm, seed=config["seed"]).to(data.x_train.device)
    if norm in ("weight", "mean-only") and not start:
        init_by_data(network, data.x_train[:500])
    return network


def run(config: dict, data) -> dict:
    """Train one network for each rate; lists have one entry per rate, None for a diverged run."""
    trained = train(
        [build(config, data) for _ in config["rates"]],
        data,
        lr=config["rates"],
        steps=config["steps"],
        batch_size=config["batch_size"],
        seed=config["seed"],
        eval_every=config["steps"],
        eval_examples=4000,
    )
    return records.plain(
        {
            "train_accuracy": [one.train_accuracy[-1] for one in trained],
            "test_accuracy": [one.test_accuracy[-1] for one in trained],
            "diverged_at": [one.diverged_at for one in trained],
        }
    )


def best(run: dict) -> int:
    """Return the place of the rate with the highest training accuracy."""
    scores = [accuracy or 0.0 for accuracy in run["metrics"]["train_accuracy"]]
    return scores.index(max(scores))


def accuracies(runs: list[dict], norm: str, depth: int, split: str = "train") -> list[float]:
    """Return the accuracy at the best rate, one for each seed; 0 where every rate diverged."""
    mine = [r for r in runs if (r["config"]["norm"], r["config"]["depth"]) == (norm, depth)]
    return [run["metrics"][f"{split}_accuracy"][best(run)] or 0.0 for run in mine]


def verdicts(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    """Judge at ``JUDGED`` hidden layers, by training accuracy: norms against none, two starts."""
    names = {"none": "no norm", "batch": "batch norm", "layer": "layer norm"}
    names |= {"weight": "weight norm", "weight, He start": "weight norm from He's start"}
    found = {norm: accuracies(runs, norm, JUDGED) for norm in names}

    def ahead(one: str, other: str) -> bool:
        return all(a >= b + AHEAD for a, b in zip(found[one], found[other], strict=True))

    def text(*norms: str) -> str:
        parts = [f"{names[n]} {min(found[n]):.1%} to {max(found[n]):.1%}" for n in norms]
        seeds = len(found["none"])
        return f"training accuracy, {JUDGED} hidden layers: {', '.join(parts)} ({seeds} seeds)"

    return {
        "batch-norm-goes-deeper": (ahead("batch", "none"), text("batch", "none")),
        "layer-norm-goes-deeper": (ahead("layer", "none"), text("layer", "none")),
        "weight-norm-falls-behind": (ahead("none", "weight"), text("weight", "none")),
        "weight-norm-fails-by-its-start": (
            ahead("weight, He start", "weight"),
            text("weight, He start", "weight", "none"),
        ),
    }


if __name__ == "__main__":
    from normlab.experiments import main

    main(__file__)
