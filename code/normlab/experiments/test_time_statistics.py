"""Which mean and variance should batch norm use when training is over?

One network is trained once per seed. At a few marks on the way its test accuracy is measured with
every choice of statistics: two running averages, the training set itself, and the test batch at
hand, shuffled or sorted by class. The choice does not act back on training, which always uses the
batch, so all of them are judged on the same weights. Used by lesson 6.
"""

from copy import deepcopy

import torch
from torch import nn

from normlab.data import cifar10, digits
from normlab.experiments import main
from normlab.models import MLP, VGG
from normlab.train import train

QUESTION = "Which mean and variance should batch norm use when training is over?"

MLP_3X64 = {"model": "mlp", "depth": 3, "width": 64}
VGG_11 = {"model": "vgg", "depth": 11}

#: momenta of the two running averages
MOMENTA = (0.1, 0.01)

CONFIGS = {
    "quick": [
        MLP_3X64
        | {"lr": 0.1, "batch_size": 64, "marks": [5, 20, 100, 300], "sizes": [2, 4, 8, 16, 32, 64]}
        | {"sorted_size": 32, "population": 1297, "chunk": 1297, "seed": seed}
        for seed in range(5)
    ],
    "cpu": [
        VGG_11
        | {"width": 16, "lr": 0.1, "batch_size": 64, "marks": [5, 20, 100, 300, 1000]}
        | {"sizes": [1, 2, 8, 32, 128], "sorted_size": 32}
        | {"population": 10_000, "chunk": 1000, "seed": seed}
        for seed in range(3)
    ],
    "full": [
        VGG_11
        | {"width": 64, "lr": 0.1, "batch_size": 128, "marks": [5, 20, 100, 500, 2000, 5850]}
        | {"sizes": [1, 2, 8, 32, 128], "sorted_size": 32}
        | {"population": 50_000, "chunk": 1000, "seed": seed}
        for seed in range(5)
    ],
}


def load(scale: str):
    """Return the digits, or CIFAR-10: 2,000 test images on a CPU, all 10,000 at full scale."""
    if scale == "quick":
        return digits()
    return cifar10(test=2000 if scale == "cpu" else None)


def build(config: dict) -> nn.Module:
    """Build the network of a configuration, with torch's batch norm."""
    if config["model"] == "vgg":
        return VGG(config["depth"], config["width"], norm="torch.batch", seed=config["seed"])
    hidden = [config["width"]] * config["depth"]
    return MLP((64, *hidden, 10), norm="torch.batch", seed=config["seed"])


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that keep running statistics, from input to output."""
    return [layer for layer in model.modules() if hasattr(layer, "running_mean")]


def statistics(model: nn.Module) -> list[torch.Tensor]:
    """Return the running means and variances themselves, two tensors (C,) per norm layer."""
    return [s for layer in norm_layers(model) for s in (layer.running_mean, layer.running_var)]


@torch.no_grad()
def with_statistics(model: nn.Module, values: list[torch.Tensor]) -> nn.Module:
    """Return a copy in evaluation mode that normalizes by ``values``, as `statistics` lists them."""
    copy = deepcopy(model).eval()
    for place, value in zip(statistics(copy), values, strict=True):
        place.copy_(value)
    return copy


@torch.no_grad()
def recalibrate(model: nn.Module, x: torch.Tensor, batch_size: int) -> nn.Module:
    """Return a copy in evaluation mode whose statistics come from one fresh pass over ``x``.

    The weights stay. Every batch weighs the same (``momentum=None``), so ``batch_size`` should
    divide the number of examples. With all of ``x`` in one batch these are the population
    statistics: mean exact, variance unbiased. Large batches come close; small ones do not, because
    each layer's input is then normalized by noisy statistics. Source: Wu & Johnson 2021, section 3.
    """
    copy = deepcopy(model).train()
    for layer in norm_layers(copy):
        layer.reset_running_stats()
        layer.momentum = None
    for part in x.split(batch_size):
        copy(part)
    return copy.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor, batch_size: int) -> float:
    """Return the share of right answers, batch after batch, in the mode that the model is in.

    In training mode each batch is normalized by itself, and the running statistics move.
    """
    hits = [
        (model(part).argmax(1) == labels).sum()
        for part, labels in zip(x.split(batch_size), y.split(batch_size), strict=True)
    ]
    return torch.stack(hits).sum().item() / len(x)


def judge(model: nn.Module, averages: dict, data, config: dict) -> dict[str, float]:
    """Return the test accuracy of one set of weights under every choice of statistics."""
    x, y = data.x_test, data.y_test
    found = {}
    for momentum, average in averages.items():
        found[f"running_{momentum}"] = accuracy(with_statistics(model, average), x, y, 1000)
    exact = recalibrate(model, data.x_train[: config["population"]], config["chunk"])
    found["population"] = accuracy(exact, x, y, 1000)
    own = deepcopy(model).train()
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).to(y.device)
    for size in config["sizes"]:
        found[f"batch_{size}"] = accuracy(own, x[shuffled], y[shuffled], size)
    by_class = y.argsort(stable=True)
    found["sorted"] = accuracy(own, x[by_class], y[by_class], config["sorted_size"])
    return found


def run(config: dict, data) -> dict:
    """Train once and return, for every choice of statistics, the test accuracy at the marks.

    The layers train with momentum 1, which leaves the statistics of the last batch in the buffers.
    From these any number of running averages can be kept beside the one training run.
    """
    model = build(config).to(data.x_train.device, memory_format=torch.channels_last)
    averages = {a: [s.clone() for s in statistics(model)] for a in MOMENTA}
    for layer in norm_layers(model):
        layer.momentum = 1.0
    rows = []

    def after_step(step: int) -> None:
        for momentum, average in averages.items():
            for value, new in zip(average, statistics(model), strict=True):
                value.lerp_(new, momentum)
        if step in config["marks"]:
            rows.append(judge(model, averages, data, config))

    options = {key: config[key] for key in ("lr", "batch_size", "seed")}
    steps = config["marks"][-1]
    options |= {"steps": steps, "eval_every": steps, "eval_examples": 500}
    train(model, data, after_step=after_step, **options)
    return {name: [row[name] for row in rows] for name in rows[0]}


def verdicts(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    """Judge the claims of lesson 6: claim id -> (holds, measured)."""
    return {
        "running-average-lags": _lags(runs),
        "own-batch-too-small": _too_small(runs),
        "class-sorted-batches": _sorted(runs),
    }


def _range(values: list[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


def _lags(runs: list[dict]) -> tuple[bool, str]:
    """After 20 updates the slow average costs accuracy; at the end the fast one costs none."""
    early, late = [], []
    for entry in runs:
        found, at = entry["metrics"], entry["config"]["marks"].index(20)
        early.append(found["population"][at] - found["running_0.01"][at])
        late.append(found["population"][-1] - found["running_0.1"][-1])
    text = (
        f"population minus running average: after 20 updates, momentum 0.01: {_range(early)}; "
        f"after {runs[0]['config']['marks'][-1]}, momentum 0.1: {_range(late)}"
    )
    return min(early) > 0.05 and max(late) < 0.05, f"{text} ({len(runs)} seeds)"


def _too_small(runs: list[dict]) -> tuple[bool, str]:
    """The test batch's own statistics get better from 2 to 8 to 32 examples; 2 are too few."""
    found = {size: [e["metrics"][f"batch_{size}"][-1] for e in runs] for size in (2, 8, 32)}
    rising = all(a < b < c for a, b, c in zip(*found.values(), strict=True))
    lost = [e["metrics"]["population"][-1] - e["metrics"]["batch_2"][-1] for e in runs]
    text = "; ".join(f"{size}: {_range(values)}" for size, values in found.items())
    text = f"accuracy in batches of {text}; 2 lose {_range(lost)} ({len(runs)} seeds)"
    return rising and min(lost) > 0.1, text


def _sorted(runs: list[dict]) -> tuple[bool, str]:
    """Sorting the test set by class costs more than half of the accuracy."""
    size = runs[0]["config"]["sorted_size"]
    shuffled = [entry["metrics"][f"batch_{size}"][-1] for entry in runs]
    by_class = [entry["metrics"]["sorted"][-1] for entry in runs]
    holds = all(a < b / 2 for a, b in zip(by_class, shuffled, strict=True))
    text = f"batches of {size}: shuffled {_range(shuffled)}, sorted by class {_range(by_class)}"
    return holds, f"{text} ({len(runs)} seeds)"


if __name__ == "__main__":
    main(__file__)
