"""How much faster are stacked training and batched probes than the plain way?

The same networks from the same weights, the same batches in the same order, both ways in turn in
one process. *Plain* is what most scripts do: one model after the other, a DataLoader, nn.BatchNorm
and torch.optim.SGD; a probe evaluates one step size of one model at a time. *Ours* is
:func:`normlab.train.train` with a list, and :func:`normlab.probes.line` with a list. Both ways must
compute the same losses.

On a CPU the clock is the processor time of one thread, which other programs on the machine disturb
least; on a GPU it is the time that passes. ``plain_wall`` and ``ours_wall`` always are the latter.

| scale | training | probes |
|---|---|---|
| quick | 20 MLPs of two sizes, 20 steps | the same MLPs, 8 step sizes |
| cpu | 20 MLPs of two sizes, 60 steps | the same MLPs and 3 small VGGs, 8 step sizes, 3 times |
| full | as cpu, 1,000 steps; 3 VGG-11 on CIFAR-10, 200 steps | as cpu, 50 times |

The MLPs have 6 hidden layers of 64, the largest of the lessons' quick runs, or 2 hidden layers of
32. They see digits in batches of 64. The full scale wants a GPU; it has not been run.
"""

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from normlab.data import Data, cifar10, digits
from normlab.models import MLP, VGG
from normlab.probes import line
from normlab.train import train

QUESTION = "How much faster are stacked training and batched probes than the plain way?"
PROCESSES = 1  # a run must have the computer for itself

#: the aim, fixed before the first run: the median over repetitions of plain / ours
AIM = 4.0
#: largest difference between the two ways, in float64, over CHECKED steps: of losses in nats and of
#: distances between gradients (of values larger than 1: relative); in float32 rounding errors grow
SAME = 1e-8
CHECKED = 25

STEP_SIZES = [0.05 * 8 ** (k / 7) for k in range(8)]  # the range of the paper's figure 4
HIDDEN = {"MLP 6x64": [64] * 6, "MLP 2x32": [32] * 2}


def _grid(what: str, network: str, count: int, amount: int, repetitions=5) -> list[dict]:
    """List the repetitions of one measurement; ``amount`` is steps, or calls of the probe."""
    grid = product(range(repetitions), ("none", "batch"))
    fixed = {"what": what, "network": network, "count": count, "amount": amount}
    return [{**fixed, "norm": norm, "seed": seed} for seed, norm in grid]


def _scale(steps: int, calls: int, repetitions: int = 5) -> list[dict]:
    grids = [("training", network, 20, steps, repetitions) for network in HIDDEN]
    grids += [("probe", network, 20, calls, repetitions) for network in HIDDEN]
    return [config for grid in grids for config in _grid(*grid)]


CONFIGS = {
    "quick": _scale(20, 1, 3),
    "cpu": _scale(60, 3) + _grid("probe", "small VGG", 3, 3),
    "full": _scale(1000, 50)
    + _grid("probe", "small VGG", 3, 50)
    + _grid("training", "VGG-11", 3, 200),
}


def load(scale: str) -> Data:
    """Return the digits; at full scale they lie on the GPU if there is one."""
    return digits(device="cuda" if scale == "full" and torch.cuda.is_available() else "cpu")


def build(config: dict) -> list[nn.Module]:
    """Return the networks, with torch's own batch norm, so that both ways have the same layers."""
    norm = "none" if config["norm"] == "none" else "torch.batch"
    seeds = [1000 * config["seed"] + i for i in range(config["count"])]
    if config["network"] in HIDDEN:
        return [MLP((64, *HIDDEN[config["network"]], 10), norm, seed=seed) for seed in seeds]
    if config["network"] == "small VGG":
        return [VGG((1, "M", 2, 2), 8, norm, channels=1, seed=seed) for seed in seeds]
    return [VGG(11, 64, norm, seed=seed) for seed in seeds]


class Order(Sampler):
    """A fresh random order every epoch, the one that :func:`normlab.train.batches` gives."""

    def __init__(self, count: int, seed: int):
        self.count, self.generator = count, torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.count, generator=self.generator).tolist())

    def __len__(self) -> int:
        return self.count


def plain_training(models, data, lr: float, steps: int, batch_size: int, seeds) -> Tensor:
    """Train one model after the other; return the losses (R, steps)."""
    device = data.x_train.device
    dataset = TensorDataset(data.x_train.cpu(), data.y_train.cpu())
    history = []
    for model, seed in zip(models, seeds, strict=True):
        order = Order(len(dataset), seed)
        loader = DataLoader(dataset, batch_size, sampler=order, drop_last=True)
        optimizer = torch.optim.SGD(model.to(device).parameters(), lr)
        model.train()
        losses = []
        while len(losses) < steps:
            for x, y in loader:
                loss = F.cross_entropy(model(x.to(device)), y.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
                if len(losses) == steps:
                    break
        history.append(torch.stack(losses))
    return torch.stack(history).cpu()


def our_training(models, data, lr: float, steps: int, batch_size: int, seeds) -> Tensor:
    """Train all models with one call; return the losses (R, steps)."""
    options = {"steps": steps, "batch_size": batch_size, "seed": seeds}
    runs = train(models, data, lr=lr, eval_every=steps, eval_examples=1, **options)
    return torch.tensor([run.batch_loss for run in runs], dtype=torch.float64)


def plain_probe(models, x: Tensor, y: Tensor) -> Tensor:
    """Probe one step size of one model at a time; return losses and changes (2, R, K)."""
    losses, changes = [], []
    for model in models:
        start = copy.deepcopy(model.state_dict())
        parameters = list(model.parameters())
        gradient = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
        for size in STEP_SIZES:
            model.load_state_dict(start)
            with torch.no_grad():
                for p, g in zip(parameters, gradient, strict=True):
                    p -= size * g
            loss = F.cross_entropy(model(x), y)
            there = torch.autograd.grad(loss, parameters)
            moved = [(a - b).square().sum() for a, b in zip(there, gradient, strict=True)]
            losses.append(loss.detach())
            changes.append(torch.stack(moved).sum().sqrt())
        model.load_state_dict(start)
    shape = (len(models), len(STEP_SIZES))
    return torch.stack([torch.stack(losses).view(shape), torch.stack(changes).view(shape)]).cpu()


def our_probe(models, x: Tensor, y: Tensor) -> Tensor:
    """Probe all step sizes of all models with one call; return losses and changes (2, R, K)."""
    found = line(models, x, y, STEP_SIZES)
    return torch.stack([found.losses, found.changes]).cpu()


def timed(function: Callable[[], Tensor], cuda: bool) -> tuple[float, float]:
    """Return the seconds of the judged clock and the seconds that passed."""
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    start, wall = clock(), time.perf_counter()
    function()
    if cuda:
        torch.cuda.synchronize()
    return clock() - start, time.perf_counter() - wall


def _training(config: dict, data) -> tuple[Callable, Callable, int]:
    """Return plain and our way as functions of the models, and the images that they see."""
    size = 128 if config["network"] == "VGG-11" else 64
    seeds = [config["seed"] + i for i in range(config["count"])]
    return (
        lambda models, steps: plain_training(models, data, 0.01, steps, size, seeds),
        lambda models, steps: our_training(models, data, 0.01, steps, size, seeds),
        config["count"] * config["amount"] * size,
    )


def _probe(config: dict, data) -> tuple[Callable, Callable, int]:
    """Return plain and our way as functions of the models, and the images that they see."""
    x, y = data.x_train[:128], data.y_train[:128]

    def repeated(probe):
        return lambda models, calls: [probe(models, x, y) for _ in range(calls)][-1]

    points = config["count"] * (1 + len(STEP_SIZES))
    return repeated(plain_probe), repeated(our_probe), points * len(x) * config["amount"]


def difference(config: dict, data) -> float:
    """Return the largest difference between the ways for two of the models, in float64."""
    double = data._replace(x_train=data.x_train.double(), x_test=data.x_test.double())
    measure = _training if config["what"] == "training" else _probe
    one, other = (
        way([m.double().to(data.x_train.device) for m in build({**config, "count": 2})], amount)
        for amount in [CHECKED if config["what"] == "training" else 1]
        for way in measure({**config, "count": 2}, double)[:2]
    )
    return ((one - other).abs() / one.abs().clamp(min=1.0)).max().item()


def run(config: dict, data) -> dict:
    """Compare and measure both ways once, in turn; who begins alternates with the seed."""
    data = cifar10() if config["network"] == "VGG-11" else data
    plain, ours, images = (_training if config["what"] == "training" else _probe)(config, data)
    ways, found = {"plain": plain, "ours": ours}, {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        largest = difference(config, data)
        for way in ways if config["seed"] % 2 else reversed(ways):
            ways[way]([m.to(data.x_train.device) for m in build(config)], 1)  # warm up
            models = [m.to(data.x_train.device) for m in build(config)]
            call = partial(ways[way], models, config["amount"])
            found[way] = timed(call, data.x_train.is_cuda)
    finally:
        torch.set_num_threads(threads)
    return {
        "difference": largest,
        "ratio": found["plain"][0] / found["ours"][0],
        **{f"{way}_images_per_second": images / found[way][0] for way in ways},
        **{f"{way}_wall": found[way][1] for way in ways},
    }


def ratios(runs: list[dict], what: str, network: str) -> dict[str, list[float]]:
    """Return plain / ours of every repetition, by norm."""
    mine = [r for r in runs if (r["config"]["what"], r["config"]["network"]) == (what, network)]
    norms = sorted({run["config"]["norm"] for run in mine}, reverse=True)
    return {
        norm: [r["metrics"]["ratio"] for r in mine if r["config"]["norm"] == norm] for norm in norms
    }


def _text(runs: list[dict], what: str, network: str) -> str:
    """Say the median and the range of the ratios, and the images per second of both ways."""
    parts = []
    for norm, found in ratios(runs, what, network).items():
        mine = [
            r for r in runs if r["config"].items() >= {"what": what, "network": network}.items()
        ]
        speeds = [r["metrics"] for r in mine if r["config"]["norm"] == norm]
        plain, ours = (
            median(s[f"{way}_images_per_second"] for s in speeds) for way in ("plain", "ours")
        )
        parts.append(
            f"norm {norm} {median(found):.1f} times ({min(found):.1f} to {max(found):.1f}; "
            f"{ours:,.0f} against {plain:,.0f} images per second)"
        )
    return f"{network}: " + ", ".join(parts)


def verdicts(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    """Judge the aim on MLPs, both sizes, with and without batch norm; others are reported."""

    def judged(what: str) -> tuple[bool, str]:
        networks = dict.fromkeys(
            r["config"]["network"] for r in runs if r["config"]["what"] == what
        )
        found = [r for network in HIDDEN for r in ratios(runs, what, network).values()]
        reached = all(median(repetitions) >= AIM for repetitions in found)
        return reached, "; ".join(_text(runs, what, network) for network in networks)

    worst = max(run["metrics"]["difference"] for run in runs)
    return {
        "stack-four-times-faster": judged("training"),
        "probes-four-times-faster": judged("probe"),
        "benchmarks-same-numbers": (
            worst < SAME,
            f"largest difference of a loss or gradient distance: {worst:.1e} ({len(runs)} runs)",
        ),
    }


if __name__ == "__main__":
    from normlab.experiments import main

    main(__file__)
