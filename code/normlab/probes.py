r"""What we measure on networks while they train, without disturbing them.

Every probe takes R networks of one shape and evaluates all of them, at all points, with one batch.
Small networks are evaluated together by ``torch.vmap``, convolutions on a CPU one after the other,
which is as fast. Networks are probed in the mode they are in. Their weights, buffers, gradients and
torch's random numbers are the same afterwards, to the last bit, and a layer that draws noise draws
the same noise at every point. Sources: Santurkar et al. 2018, Definition 2.1 and section 3.1.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

Points = dict[str, Tensor]  # name of a parameter -> its values at B points, (B, ...)


def mean_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats, or for float targets the mean squared error.

    The squared error is summed over the features of an example.

    Shape:
        outputs (N, C) and labels (N,), or outputs and targets (N, features) -> ().
    """
    if y.is_floating_point():
        return (outputs - y).square().sum(1).mean()
    return F.cross_entropy(outputs, y)


class _Evaluator:
    """Loss and gradient of copies of a network at any points in its space of weights."""

    def __init__(self, models: Sequence[nn.Module], x: Tensor, y: Tensor, seed: int = 0):
        if len({repr(model) for model in models}) != 1:
            raise ValueError(f"expected networks of one shape, got {list(map(type, models))}")
        self.x, self.y, self.seed = x, y, seed
        parameters, self.buffers = stack_module_state(list(models))
        self.start = {name: p.detach() for name, p in parameters.items()}
        self.base = copy.deepcopy(models[0]).train(models[0].training)
        convolutions = any(isinstance(module, nn.Conv2d) for module in self.base.modules())
        self.together = x.is_cuda or not convolutions

    def __call__(self, points: Points, wanted: Sequence[str] | None = None):
        """Return the gradients at B points, by name, and the losses (B,).

        B is R or a multiple of it; the points of one network lie side by side.

        Args:
            points: (B, ...) for each parameter.
            wanted: names of the parameters whose gradients are returned; None: all.
        """
        count = len(next(iter(points.values())))
        replicas = len(next(iter(self.start.values())))
        buffers = {n: b.repeat_interleave(count // replicas, 0) for n, b in self.buffers.items()}
        moving = {name: points[name] for name in (wanted or points)}
        fixed = {name: value for name, value in points.items() if name not in moving}

        def loss(moving: Points, fixed: Points, buffers: Points) -> Tensor:
            with torch.random.fork_rng(devices=[self.x.device] if self.x.is_cuda else []):
                outputs = functional_call(self.base, (moving | fixed, buffers), (self.x,))
            return mean_loss(outputs, self.y)

        with torch.random.fork_rng(devices=[self.x.device] if self.x.is_cuda else []):
            torch.manual_seed(self.seed)
            if self.together:
                return vmap(grad_and_value(loss), randomness="same")(moving, fixed, buffers)
            found = [
                grad_and_value(loss)(*({n: v[i] for n, v in part.items()} for part in parts))
                for parts in [(moving, fixed, buffers)]
                for i in range(count)
            ]
        gradients = {name: torch.stack([g[name] for g, _ in found]) for name in moving}
        return gradients, torch.stack([value for _, value in found])


def _norm(values: Points) -> Tensor:
    """Return the length of each point (B,), over all of its parameters."""
    return torch.stack([v.flatten(1).square().sum(1) for v in values.values()]).sum(0).sqrt()


def _scaled(values: Points, factor: Tensor) -> Points:
    return {n: v * factor.view([-1] + [1] * (v.dim() - 1)) for n, v in values.items()}


class Line(NamedTuple):
    """What stands along a line from the weights of R networks, at K step sizes.

    ``losses`` and ``changes`` are (R, K): the loss at :math:`w - \\eta d`, and the distance
    :math:`\\lVert \\nabla L(w - \\eta d) - \\nabla L(w) \\rVert` between the gradients there and at
    the start. ``start`` is the loss at the start, ``length`` the norm of the gradient there, (R,).
    """

    step_sizes: Tensor
    start: Tensor
    length: Tensor
    losses: Tensor
    changes: Tensor

    @property
    def smoothness(self) -> Tensor:
        """Effective smoothness (R,): the largest change of the gradient per distance moved.

        The paper prints it as "effective beta-smoothness".
        """
        return (self.changes / (self.step_sizes * self.length[:, None])).amax(1)

    @property
    def loss_range(self) -> Tensor:
        """The largest minus the smallest loss on the line (R,), the start not included."""
        return self.losses.amax(1) - self.losses.amin(1)


def line(
    models: nn.Module | Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    step_sizes: Sequence[float],
    random_seed: int | None = None,
) -> Line:
    r"""Walk from the weights along the negative gradient, and look at loss and gradient.

    Every point lies on one line, :math:`w - \eta d`, through the weights of one network. The
    direction :math:`d` is the gradient of the batch; with ``random_seed`` it is a random one, of
    the gradient's length.

    Args:
        models: a network, or R of one shape.
        x, y: the batch that defines the loss, for all networks.
        step_sizes: K values of :math:`\eta`, larger than 0.
        random_seed: of the random direction; None: the gradient.

    Raises:
        ValueError: networks of different shapes, or a step size that is not positive.
    """
    if not step_sizes or min(step_sizes) <= 0:
        raise ValueError(f"step_sizes expected values larger than 0, got {list(step_sizes)}")
    evaluate = _Evaluator(_listed(models), x, y)
    gradient, start = evaluate(evaluate.start)
    length, direction = _norm(gradient), gradient
    if random_seed is not None:
        generator = torch.Generator().manual_seed(random_seed)
        direction = {
            n: torch.randn(g.shape, generator=generator, dtype=g.dtype).to(g.device)
            for n, g in gradient.items()
        }
        direction = _scaled(direction, length / _norm(direction))
    sizes = torch.tensor(step_sizes, dtype=length.dtype, device=length.device)
    count = len(sizes)

    def side_by_side(values: Points) -> Points:
        return {name: value.repeat_interleave(count, 0) for name, value in values.items()}

    moves = _scaled(side_by_side(direction), sizes.repeat(len(length)))
    points = {n: p - moves[n] for n, p in side_by_side(evaluate.start).items()}
    there, losses = evaluate(points)
    change = _norm({n: there[n] - g for n, g in side_by_side(gradient).items()})
    return Line(sizes, start, length, losses.view(-1, count), change.view(-1, count))


def _listed(models: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    return [models] if isinstance(models, nn.Module) else list(models)


class Shift(NamedTuple):
    """Gradient shift of R networks in their L layers; every field is (R, L).

    ``distance`` is :math:`\\lVert G - G' \\rVert`, ``relative`` the same divided by
    :math:`\\lVert G \\rVert`, and ``cosine`` the cosine of the angle between the two.
    """

    distance: Tensor
    relative: Tensor
    cosine: Tensor


def weight_names(model: nn.Module) -> list[str]:
    """Return the names of the weights of linear layers and convolutions, from input to output."""
    return [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]


def gradient_shift(
    models: nn.Module | Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    lr: float | Sequence[float],
    names: Sequence[str] | None = None,
) -> Shift:
    r"""Measure how a step of the layers below changes the gradient of a layer.

    :math:`G_i` is the gradient of the weights of layer i. :math:`G_i'` is the gradient of the same
    weights, for the same batch, after all parameters below layer i have made a gradient step of
    size ``lr``. Santurkar et al. (2018, Definition 2.1) call the distance between the two internal
    covariate shift. The first layer has nothing below it: its shift is 0.

    Args:
        models: a network, or R of one shape.
        x, y: the batch.
        lr: size of the step, one or R.
        names: of the weights to look at; None: all of :func:`weight_names`.
    """
    models = _listed(models)
    evaluate = _Evaluator(models, x, y)
    rates = torch.as_tensor(lr, dtype=x.dtype, device=x.device).expand(len(models))
    gradient, _ = evaluate(evaluate.start)
    moved = {n: p - _scaled({n: gradient[n]}, rates)[n] for n, p in evaluate.start.items()}
    order, found = list(evaluate.start), []
    for name in names or weight_names(models[0]):
        below = order[: order.index(name)]
        points = evaluate.start | {n: moved[n] for n in below}
        after = evaluate(points, [name])[0][name].flatten(1)
        before = gradient[name].flatten(1)
        distance, length = (before - after).norm(dim=1), before.norm(dim=1)
        found.append((distance, distance / length, F.cosine_similarity(before, after, eps=1e-30)))
    return Shift(*(torch.stack(column, 1) for column in zip(*found, strict=True)))


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Give a network its weights, buffers, mode and random numbers back at the end of a block."""
    state, training = copy.deepcopy(model.state_dict()), model.training
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        model.load_state_dict(state)
        model.train(training)


@torch.no_grad()
def outputs_of(
    model: nn.Module, modules: Sequence[nn.Module], x: Tensor, seed: int = 0
) -> list[Tensor]:
    """Return the outputs of some modules of a network for one batch; the network stays as it was.

    Noise is drawn from ``seed``. Two calls with different seeds see two draws.
    """
    found: dict[int, Tensor] = {}

    def keep(index: int) -> Callable:
        return lambda module, inputs, output: found.__setitem__(index, output.detach().clone())

    hooks = [module.register_forward_hook(keep(index)) for index, module in enumerate(modules)]
    try:
        with restored(model):
            torch.manual_seed(seed)
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[index] for index in range(len(modules))]


def moments(values: Tensor) -> Tensor:
    """Return the mean and the standard deviation of every channel, (N, C, *) -> (2, C)."""
    rows = values.transpose(0, 1).flatten(1)
    return torch.stack([rows.mean(1), rows.std(1, correction=0)])


def drift(history: Tensor, lag: int | None) -> Tensor:
    r"""Return how far means and standard deviations move within ``lag`` entries of a history.

    For channel c, :math:`|\mu_c(t) - \mu_c(t - \text{lag})|`, averaged over the channels and divided
    by the mean standard deviation of the layer at :math:`t - \text{lag}`; for the standard
    deviations likewise. With ``lag=None`` everything is compared with the first entry.

    Args:
        history: moments of one layer at T times, (T, 2, C).
        lag: entries between the two times.

    Shape:
        -> (T - lag, 2), or (T, 2) for None: drift of the means, drift of the standard deviations.

    Raises:
        ValueError: a lag that the history is too short for.
    """
    if lag is not None and not 0 < lag < len(history):
        raise ValueError(f"lag expected between 1 and {len(history) - 1}, got {lag}")
    before = history[:1] if lag is None else history[:-lag]
    after = history if lag is None else history[lag:]
    unit = before[:, 1].mean(1)  # (T - lag, 2, C) -> (T - lag,)
    return (after - before).abs().mean(2) / unit[:, None]
