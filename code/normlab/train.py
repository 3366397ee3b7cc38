"""One training loop, for one network or for a stack of replicas at once.

Data stay on the device; there are no worker processes. A run is deterministic given its seed. A
replica whose loss is not finite, or grows beyond ``DIVERGED`` times its first value, has diverged:
it is stopped and recorded as such, and the others go on.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from normlab.stack import Single, Stack, VmapStack, can_stack, can_vmap

#: a loss above this multiple of the first one counts as divergence
DIVERGED = 1000.0

OPTIMIZERS = {
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
}


@dataclass
class Run:
    """What one training run leaves behind; losses are means over examples, as :func:`losses` says.

    ``steps`` are the steps at which the network was evaluated, in evaluation mode, on the training
    and the test examples. ``batch_loss`` has one entry per step, the loss that was minimized.
    After ``diverged_at`` all values are NaN.
    """

    lr: float
    seed: int
    steps: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    batch_loss: list[float] = field(default_factory=list)
    diverged_at: int | None = None
    seconds: float = 0.0

    def add(self, step, train_loss, train_accuracy, test_loss, test_accuracy) -> None:
        """Append one evaluation."""
        self.steps.append(step)
        self.train_loss.append(train_loss)
        self.train_accuracy.append(train_accuracy)
        self.test_loss.append(test_loss)
        self.test_accuracy.append(test_accuracy)

    def steps_to(self, accuracy: float) -> float:
        """Return the first evaluated step with at least this training accuracy, else infinity."""
        reached = (s for s, a in zip(self.steps, self.train_accuracy, strict=True) if a >= accuracy)
        return float(next(reached, float("inf")))


def progress(items: Iterable, **options) -> Iterable:
    """Wrap ``items`` in a progress bar; ``NORMLAB_PROGRESS=0`` keeps it silent."""
    silent = os.environ.get("NORMLAB_PROGRESS") == "0"
    return tqdm(items, disable=silent, leave=False, dynamic_ncols=True, **options)


def losses(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each example: cross-entropy in nats, or the squared error of a regression.

    Shape:
        outputs (R, classes, N) and labels (R, N) -> (R, N); outputs (R, features, N) and float
        targets (R, N, features) -> (R, N), the squared error summed over the features.
    """
    if y.is_floating_point():
        return (outputs - y.transpose(1, 2)).square().sum(1)
    return F.cross_entropy(outputs, y, reduction="none")


def batches(count: int, batch_size: int, seed: int):
    """Yield index tensors for ever: a fresh random order every epoch, a short last batch dropped.

    Raises:
        ValueError: a batch larger than the data.
    """
    if batch_size > count:
        raise ValueError(f"batch_size expected at most {count} (the examples), got {batch_size}")
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def train(
    models: nn.Module | Sequence[nn.Module],
    data,
    *,
    lr: float | Sequence[float],
    steps: int,
    batch_size: int | None = None,
    seed: int | Sequence[int] = 0,
    optimizer: str = "sgd",
    weight_decay: float = 0.0,
    eval_every: int | None = None,
    eval_examples: int | None = None,
    after_step: Callable[[int], None] | None = None,
    fast: bool = False,
) -> Run | list[Run]:
    """Train one network, or several, in place on the device of the data; return what happened.

    Equal MLPs are trained together as a :class:`normlab.stack.Stack`, equal recurrent networks as
    a :class:`normlab.stack.VmapStack`; others one after the other. The result is the same.

    Args:
        models: a network, or a list of R.
        data: with ``x_train, y_train, x_test, y_test``, all on one device; float targets make it a
            regression.
        lr: learning rate, one or R.
        steps: updates.
        batch_size: examples per update; None: all of them in every update.
        seed: of the order of the examples, one or R.
        optimizer: "sgd", "momentum" (0.9), "rmsprop" or "adam". Only "sgd" takes R different lr.
        weight_decay: adds ``weight_decay * w`` to the gradient ("sgd" only).
        eval_every: steps between evaluations; default: a tenth of ``steps``. The start and the end
            are always evaluated.
        eval_examples: evaluate on at most this many examples of each split.
        after_step: called as ``after_step(step)`` after each update, to probe; the networks are
            then trained one after the other.
        fast: on a GPU, compile the networks (CUDA graphs) and multiply in bfloat16; for networks
            that are trained one by one. The weights stay float32. On a CPU it changes nothing.

    Raises:
        ValueError: lists of different lengths, an unknown optimizer or an option that it lacks.
    """
    one = isinstance(models, nn.Module)
    group = [m.to(data.x_train.device) for m in ([models] if one else models)]
    lrs, seeds = _per_model(lr, len(group), "lr"), _per_model(seed, len(group), "seed")
    _check_optimizer(optimizer, weight_decay)
    together = len(group) > 1 and after_step is None
    together = together and (optimizer == "sgd" or len(set(lrs)) == 1)
    engine = Stack if can_stack(group) else VmapStack if can_vmap(group) else None
    engines = (
        [(engine(group), lrs, seeds)]
        if together and engine
        else [(Single(m, fast), [a], [s]) for m, a, s in zip(group, lrs, seeds, strict=True)]
    )
    runs = []
    for engine, engine_lrs, engine_seeds in engines:
        loop = _Loop(engine, data, engine_lrs, engine_seeds, batch_size, eval_examples)
        runs += loop.run(steps, eval_every, optimizer, weight_decay, after_step)
    return runs[0] if one else runs


def _per_model(value, count: int, name: str) -> list:
    values = list(value) if hasattr(value, "__len__") else [value] * count
    if len(values) != count:
        raise ValueError(f"{name} expected one value or {count} (one per model), got {len(values)}")
    return values


def _check_optimizer(optimizer: str, weight_decay: float) -> None:
    if optimizer != "sgd" and optimizer not in OPTIMIZERS:
        known = ", ".join(["sgd", *OPTIMIZERS])
        raise ValueError(f"optimizer expected one of {known}, got {optimizer!r}")
    if weight_decay and optimizer != "sgd":
        raise ValueError(f"weight_decay expected optimizer='sgd', got {optimizer!r}")


class _Loop:
    """The loop itself, over one engine: a :class:`Stack`, or a :class:`Single` network."""

    def __init__(self, engine, data, lrs, seeds, batch_size, eval_examples):
        self.engine, self.data = engine, data
        self.device = data.x_train.device
        self.lr = torch.tensor(lrs, dtype=torch.float64, device=self.device)
        self.runs = [Run(lr=a, seed=s) for a, s in zip(lrs, seeds, strict=True)]
        self.batch_size, self.eval_examples = batch_size, eval_examples
        self.orders = batch_size and [
            batches(len(data.x_train), batch_size, run.seed) for run in self.runs
        ]
        self.alive = torch.ones(len(lrs), dtype=torch.bool, device=self.device)
        self.first_loss = None

    def run(self, steps, eval_every, optimizer, weight_decay, after_step) -> list[Run]:
        start = time.perf_counter()
        every = eval_every or max(1, steps // 10)
        update = self._updater(optimizer, weight_decay)
        history = []
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.runs[0].seed)
            self._evaluate(0)
            for step in progress(range(1, steps + 1), desc="training"):
                self.engine.train()
                x, y = self._batch()
                loss = losses(self.engine(x), y).mean(1)  # (R,)
                self.engine.zero_grad()
                loss.sum().backward()
                history.append(self._stop_diverged(loss.detach(), step))
                if not self.alive.any():
                    break
                update()
                if after_step is not None:
                    after_step(step)
                if step % every == 0 or step == steps:
                    self._evaluate(step)
        self.engine.unstack()
        marks = [0, *(s for s in range(1, steps + 1) if s % every == 0 or s == steps)]
        for run, curve in zip(self.runs, torch.stack(history).T.tolist(), strict=True):
            run.batch_loss = curve + [math.nan] * (steps - len(curve))
            for mark in marks[len(run.steps) :]:  # all replicas died: nothing left to evaluate
                run.add(mark, *[math.nan] * 4)
            run.seconds = (time.perf_counter() - start) / len(self.runs)
        return self.runs

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Return the next inputs (R, N, *) and labels (R, N)."""
        x, y = self.data.x_train, self.data.y_train
        if self.orders is None:
            return x.expand(len(self.runs), *x.shape), y.expand(len(self.runs), *y.shape)
        index = torch.stack([next(order) for order in self.orders]).to(self.device)
        return x[index], y[index]

    def _updater(self, optimizer: str, weight_decay: float) -> Callable[[], None]:
        """Return the function that makes one update from the gradients."""
        parameters = list(self.engine.parameters())
        if optimizer != "sgd":
            return OPTIMIZERS[optimizer](parameters, self.lr[0].item()).step
        rates = [rate.to(parameters[0].dtype) for rate in self.engine.spread(self.lr)]

        @torch.no_grad()
        def sgd():
            for p, rate in zip(parameters, rates, strict=True):
                if p.grad is not None:
                    p.sub_(rate * (p.grad + weight_decay * p if weight_decay else p.grad))

        return sgd

    @torch.no_grad()
    def _stop_diverged(self, loss: Tensor, step: int) -> Tensor:
        """Record replicas that diverge at this step; return the losses with NaN for the dead."""
        if self.first_loss is None:
            self.first_loss = loss.clone()
        dying = self.alive & ~(loss.isfinite() & (loss <= DIVERGED * self.first_loss))
        if dying.any():
            self.alive &= ~dying
            for r in dying.nonzero().flatten().tolist():
                self.runs[r].diverged_at = step
            if self.alive.any():
                keep = self.engine.spread(self.alive.double())
                for p, mask in zip(self.engine.parameters(), keep, strict=True):
                    p.copy_(torch.where(mask.bool(), p, 0.0))
        if not self.alive.all():
            keep = self.engine.spread(self.alive.double())
            for p, mask in zip(self.engine.parameters(), keep, strict=True):
                if p.grad is not None:
                    p.grad = torch.where(mask.bool(), p.grad, 0.0)
        return torch.where(self.alive, loss, torch.nan)

    @torch.no_grad()
    def _evaluate(self, step: int) -> None:
        self.engine.eval()
        limit = self.eval_examples
        train = self._score(self.data.x_train[:limit], self.data.y_train[:limit])
        test = self._score(self.data.x_test[:limit], self.data.y_test[:limit])
        for run, *values in zip(self.runs, *train, *test, strict=True):
            run.add(step, *values)

    def _score(self, x: Tensor, y: Tensor, chunk: int = 2000) -> tuple[list, list]:
        """Return the mean loss and the accuracy of every replica; NaN for the diverged.

        A regression has no accuracy: NaN.
        """
        count = len(self.runs)
        loss = torch.zeros(count, dtype=torch.float64, device=self.device)
        hits = torch.zeros_like(loss)
        for part, labels in zip(x.split(chunk), y.split(chunk), strict=True):
            logits = self.engine(part.expand(count, *part.shape))  # (R, classes, N)
            labels = labels.expand(count, *labels.shape)
            loss += losses(logits, labels).sum(1)
            hits += torch.nan if y.is_floating_point() else (logits.argmax(1) == labels).sum(1)
        dead = ~self.alive
        return (
            (loss / len(x)).masked_fill(dead, torch.nan).tolist(),
            (hits / len(x)).masked_fill(dead, torch.nan).tolist(),
        )
