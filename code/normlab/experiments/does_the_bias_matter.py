"""Does the bias of a layer matter when batch norm follows?

The same network, the same weights at the start and the same batches, with and without the biases
that stand before a norm. They start as torch starts them, uniform in ±1/√fan-in. Two yardsticks
keep the comparison honest. A network without any norm shows what a bias does where nothing
subtracts it. Under SGD and under Adam a nudged twin without biases, one of its weights moved to
the next float32 number, shows how far apart two runs drift from a rounding error alone.

A first design, without a nudged twin under Adam, asked whether the means differ by less than two
standard deviations of a run. It failed with three seeds and passed when three more were added,
which is optional stopping. This design and its criteria were fixed after that and before any of its
runs; its seeds on photographs are fresh.

| scale | network | data | steps |
|---|---|---|---|
| quick | MLP, 4 hidden layers of 64 | digits | 150 of 64 examples |
| cpu | VGG-11, width 16 | CIFAR-10 | 800 of 64 examples |
| full | VGG-11, width 64 | CIFAR-10 | 5865 of 128 examples (15 epochs) |

Used by lesson 5.
"""

from copy import deepcopy
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normlab.data import cifar10, digits
from normlab.experiments import main
from normlab.models import MLP, VGG
from normlab.train import train

QUESTION = "Does the bias of a layer matter when batch norm follows?"

#: name -> what makes the arm
ARMS = {
    f"batch, {kind}{', Adam' * (optimizer == 'adam')}": {
        "norm": "batch",
        "bias": kind == "bias",
        "nudged": kind == "nudged",
        "optimizer": optimizer,
    }
    for optimizer in ("sgd", "adam")
    for kind in ("no bias", "bias", "nudged")
} | {"none, bias": {"norm": "none", "bias": True, "nudged": False, "optimizer": "sgd"}}


def _arms(seeds: range, rates: dict[str, float], **fixed) -> list[dict]:
    """List one configuration per seed and arm; rates are those of "batch", "none" and "adam"."""
    found = []
    for seed in seeds:
        for name, arm in ARMS.items():
            lr = rates["adam" if arm["optimizer"] == "adam" else arm["norm"]]
            found.append({"arm": name, **arm, "lr": lr, "seed": seed, **fixed})
    return found


CONFIGS = {
    "quick": _arms(
        range(5),
        {"batch": 0.3, "none": 0.1, "adam": 0.003},
        depth=4,
        width=64,
        steps=150,
        batch_size=64,
    ),
    "cpu": _arms(
        range(10, 18),
        {"batch": 0.1, "none": 0.03, "adam": 0.001},
        depth=11,
        width=16,
        steps=800,
        batch_size=64,
    ),
    "full": _arms(
        range(10, 18),
        {"batch": 0.1, "none": 0.03, "adam": 0.001},
        depth=11,
        width=64,
        steps=5865,
        batch_size=128,
    ),
}

#: with batch norm a bias gradient must be below this fraction of the layer's weight gradient
NOTHING = 1e-4
#: and without a norm above this one
SOMETHING = 1e-3
#: with and without a bias, the mean absolute difference in test accuracy over the seeds must be at
#: most this many times the one between a network and its nudged twin
NUDGES = 2.5
#: Adam must move a bias (root mean square) at least this many times further than SGD does
FURTHER = 100.0


def load(scale: str):
    """Return the digits, or CIFAR-10: 2,000 test images on a CPU, all 10,000 at full scale."""
    if scale == "quick":
        return digits()
    return cifar10(test=2000 if scale == "cpu" else None)


def hidden_layers(model: nn.Module) -> list[nn.Module]:
    """Return the linear and convolutional layers in order, without the head."""
    return [layer for layer in model if isinstance(layer, (nn.Linear, nn.Conv2d))][:-1]


@torch.no_grad()
def start_biases(model: nn.Module, seed: int) -> None:
    """Draw the hidden biases from U(-1/√fan-in, 1/√fan-in), which is how torch starts them."""
    generator = torch.Generator().manual_seed(1000 + seed)
    for layer in hidden_layers(model):
        bound = layer.weight[0].numel() ** -0.5
        layer.bias.uniform_(-bound, bound, generator=generator)


def build(config: dict, data) -> nn.Module:
    """Return the network of a configuration: an MLP for digits, a VGG for photographs."""
    norm = "torch.batch" if config["norm"] == "batch" else "none"
    options = {"norm": norm, "bias": config["bias"], "seed": config["seed"]}
    channels, height, breadth = data.x_train.shape[1:]
    if channels == 1:
        hidden = [config["width"]] * config["depth"]
        model = MLP((height * breadth, *hidden, len(data.classes)), **options)
    else:
        model = VGG(config["depth"], config["width"], channels=channels, **options)
    if config["bias"]:
        start_biases(model, config["seed"])
    if config["nudged"]:
        with torch.no_grad():
            weight = hidden_layers(model)[0].weight.view(-1)
            weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf))
    return model.to(data.x_train.device, memory_format=torch.channels_last)


def gradient_ratios(model: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    r"""Return :math:`\|\partial L/\partial b\| / \|\partial L/\partial W\|` of each hidden layer.

    In training mode, on a copy: the running statistics of ``model`` stay as they are.
    """
    copy = deepcopy(model).train()
    copy.zero_grad()
    F.cross_entropy(copy(x), y).backward()
    layers = hidden_layers(copy)
    return [(layer.bias.grad.norm() / layer.weight.grad.norm()).item() for layer in layers]


def run(config: dict, data) -> dict:
    """Train once; return the final accuracies and, where there are biases, what became of them.

    ``bias_gradient``: the ratios of :func:`gradient_ratios` before and after training, on the first
    batch of the training set. ``bias_start``, ``bias_drift``: root mean square over all hidden
    biases, of their first values and of last minus first.
    """
    model = build(config, data)
    size = config["batch_size"]
    batch = data.x_train[:size], data.y_train[:size]
    biased = config["bias"]
    before = [layer.bias.detach().clone() for layer in hidden_layers(model)] if biased else []
    found = {"bias_gradient": [gradient_ratios(model, *batch)] if biased else None}
    options = {key: config[key] for key in ("lr", "steps", "batch_size", "seed", "optimizer")}
    done = train(model, data, eval_every=config["steps"], eval_examples=2000, **options)
    if biased:
        after = [layer.bias.detach() for layer in hidden_layers(model)]
        moved = torch.cat([b - a for a, b in zip(before, after, strict=True)])
        found["bias_gradient"].append(gradient_ratios(model, *batch))
        found["bias_start"] = torch.cat(before).square().mean().sqrt().item()
        found["bias_drift"] = moved.square().mean().sqrt().item()
    found |= {"train_loss": done.train_loss[-1], "train_accuracy": done.train_accuracy[-1]}
    return found | {"test_accuracy": done.test_accuracy[-1], "diverged_at": done.diverged_at}


def values(runs: list[dict], arm: str, metric: str) -> list:
    """Return one metric of every run of an arm, in the order of the seeds."""
    return [entry["metrics"][metric] for entry in runs if entry["config"]["arm"] == arm]


def differences(runs: list[dict], kind: str, optimizer: str) -> list[float]:
    """Return test accuracy with a "bias", or "nudged", minus without: one value per seed."""
    suffix = ", Adam" if optimizer == "Adam" else ""
    arms = (f"batch, {kind}{suffix}", f"batch, no bias{suffix}")
    pairs = zip(*(values(runs, arm, "test_accuracy") for arm in arms), strict=True)
    return [one - other for one, other in pairs]


def verdicts(runs: list[dict]) -> dict[str, tuple[bool, str]]:
    """Judge the claims of lesson 5: claim id -> (holds, measured)."""
    return {
        "bias-gradient-is-rounding": _gradient(runs),
        "bias-changes-nothing": _accuracy(runs),
        "adam-moves-the-useless-bias": _drift(runs),
    }


def _gradient(runs: list[dict]) -> tuple[bool, str]:
    """Under batch norm every layer's bias gradient is rounding; without a norm it is not."""
    ratios = {
        norm: [
            ratio
            for entry in runs
            if entry["config"]["norm"] == norm and entry["config"]["bias"]
            for layers in entry["metrics"]["bias_gradient"]
            for ratio in layers
        ]
        for norm in ("batch", "none")
    }
    largest, smallest = max(ratios["batch"]), min(ratios["none"])
    text = f"bias gradient / weight gradient: with batch norm at most {largest:.0e}, "
    return (
        largest < NOTHING and smallest > SOMETHING,
        f"{text}without a norm at least {smallest:.3f}",
    )


def _accuracy(runs: list[dict]) -> tuple[bool, str]:
    """A bias changes the test accuracy hardly more than a nudge of one weight does."""
    holds, parts = True, []
    for optimizer in ("SGD", "Adam"):
        bias, nudge = (
            mean(abs(d) for d in differences(runs, kind, optimizer)) for kind in ("bias", "nudged")
        )
        holds = holds and bias <= NUDGES * nudge
        parts.append(f"{optimizer} {bias:.4f} for the bias, {nudge:.4f} for the nudge")
    seeds = len(differences(runs, "bias", "SGD"))
    return holds, f"mean absolute change of test accuracy: {'; '.join(parts)} ({seeds} seeds)"


def _drift(runs: list[dict]) -> tuple[bool, str]:
    """In float32 Adam moves the biases under batch norm much further than SGD does."""
    sgd, adam = (values(runs, f"batch, bias{o}", "bias_drift") for o in ("", ", Adam"))
    text = f"bias drift: SGD at most {max(sgd):.0e}, Adam {min(adam):.3f} to {max(adam):.3f}"
    return min(adam) > FURTHER * max(sgd), f"{text} ({len(sgd)} seeds)"


if __name__ == "__main__":
    main(__file__)
