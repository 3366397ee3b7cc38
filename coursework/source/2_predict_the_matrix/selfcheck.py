"""Self-checks for "Predict the matrix": each prints ✓, or ✗ and a sentence that says where to look.

They test properties and hold no answers. The tests of your teacher ask more.
"""

import contextlib
import functools
import hashlib
import math
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch

from normlab import layers as ready

LAYERS = ("batch", "layer", "weight", "cosine")
CHANGES = ("2W", "-2W", "3w", "W+v", "4X", "5x", "X+c", "X+a")

READY_MADE = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm")
READY_MADE += ("normalize", "cosine_similarity", "_weight_norm", "weight_norm", "cosine")
PLACES = (torch.nn.functional, torch, ready, ready.sample, ready.weights)


class Wrong(Exception):
    """A property that does not hold, in a sentence for the student."""


def need(holds, sentence: str) -> None:
    """Raise :class:`Wrong` with the sentence unless the property holds."""
    if not holds:
        raise Wrong(sentence)


def reports(check: Callable) -> Callable:
    """Make a check print its outcome, and never raise."""

    @functools.wraps(check)
    def run(*functions) -> None:
        name = check.__name__
        try:
            with without_ready_made():
                print(f"✓ {name}: {check(*functions)}")
        except NotImplementedError:
            print(f"✗ {name}: not written yet")
        except Wrong as wrong:
            print(f"✗ {name}: {wrong}")
        except Exception as error:
            print(f"✗ {name}: expected an answer, got {type(error).__name__}: {error}")

    return run


@contextlib.contextmanager
def without_ready_made():
    """Make the functions that the rules do not allow say so."""

    def refuse(*_, **__):
        raise Wrong("expected your own computation, got a ready-made norm; see the rules")

    with contextlib.ExitStack() as stack:
        for place in PLACES:
            for name in READY_MADE:
                if hasattr(place, name):
                    stack.enter_context(mock.patch.object(place, name, refuse))
        yield


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return normal random numbers in float64 without touching torch's own generator."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def near(a, b, tolerance: float = 1e-9) -> bool:
    """Whether two tensors agree, for entries of the order of 1."""
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance).all())


def is_like(y, shape: tuple, dtype: torch.dtype) -> None:
    """Need a tensor of this shape and dtype."""
    need(isinstance(y, torch.Tensor), f"expected a tensor, got {type(y).__name__}")
    need(y.shape == shape, f"expected the shape {shape}, got {tuple(y.shape)}; which axes stay?")
    need(
        y.dtype == dtype,
        f"expected {dtype} for an input of that dtype, got {y.dtype}; which tensor has the other?",
    )


def is_float(found) -> None:
    """Need a Python float; NumPy's float64 is one."""
    need(isinstance(found, float), f"expected a Python float, got {type(found).__name__}")


def leaves(function: Callable, *inputs: torch.Tensor) -> None:
    """Need a function that does not change its inputs."""
    copies = [tensor.clone() for tensor in inputs]
    function(*copies)
    same = all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))
    need(same, "the call has changed its input; avoid +=, *= and methods that end in _")


def differentiates(function: Callable, *inputs: torch.Tensor) -> None:
    """Need gradients that agree with finite differences."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    try:
        torch.autograd.gradcheck(function, inputs)
    except Exception as error:  # gradcheck's own message is a page of numbers
        raise Wrong(
            "the gradient does not agree with finite differences; does everything that depends on "
            "the input stay in the graph (no detach, no_grad, item, NumPy)?"
        ) from error


@reports
def layer_norm(norm) -> str:
    """Mean, variance, dtype, shape, scale and shift, constant example, gradient."""
    z = random(5, 3)
    for dtype in (torch.float32, torch.float64):
        is_like(norm(z.to(dtype)), (5, 3), dtype)
    y, variance = norm(z, eps=0.1), z.var(1, correction=0)
    need(near(y.mean(1), torch.zeros(5).double()), "expected examples of mean 0; mean of what?")
    need(
        near(y.var(1, correction=0), variance / (variance + 0.1)),
        "with eps = 0.1 the (biased) variance of an example should be v / (v + 0.1), v being what "
        "it was before; which variance divides, and where does eps stand?",
    )
    gamma, beta = torch.tensor([[1.5, -0.5, 0.8], [-1.0, 0.3, 2.0]]).double()
    y = norm(z)
    rows = torch.stack([gamma[i] * y[:, i] + beta[i] for i in range(3)], 1)
    need(
        near(norm(z, gamma, beta), rows),
        "gamma and beta do not act on the places along the last axis, one number for each",
    )
    need(near(norm(z, beta=beta), y + beta), "expected beta to work without gamma")
    need(near(norm(z, gamma), y * gamma), "expected gamma to work without beta")
    one = norm(z[1], gamma, beta)
    is_like(one, (3,), torch.float64)
    need(near(one, rows[1]), "an example without a batch axis gives something else than in a batch")
    deep = random(2, 5, 3)
    one_by_one = torch.stack([norm(part) for part in deep])
    need(near(norm(deep), one_by_one), "an input of three axes: expected only the last one pooled")
    need(torch.isfinite(norm(torch.ones(2, 3))).all(), "a constant example gives no finite number")
    leaves(norm, z, gamma, beta)
    differentiates(norm, z, gamma, beta)
    return "mean, variance, gamma, beta, axes, dtype and gradient look right"


@reports
def weight_norm(norm) -> str:
    """Lengths, directions, dtype, zero and tiny rows, gradient."""
    g, v = torch.tensor([2.0, 0.5, -1.5, 1.0]).double(), random(4, 3)
    for dtype in (torch.float32, torch.float64):
        is_like(norm(g.to(dtype), v.to(dtype)), (4, 3), dtype)
    w = norm(g, v)
    need(
        near(w.square().sum(1).sqrt(), g.abs()),
        "expected row o of the length |g[o]|; the length of what did you divide by?",
    )
    need(near((w * v).sum(1).sign(), g.sign()), "a negative g turns its row around, no other does")
    need(near(norm(g, 10 * v), w), "ten times v gives another w; only its direction should count")
    need(
        near(norm(g, 1e-30 * v), w),
        "a short v gives another w; is something added to its length, or is there a least length?",
    )
    square = norm(torch.arange(1.0, 4).double(), random(3, 3))
    lengths = square.square().sum(1).sqrt()
    need(
        near(lengths, torch.arange(1.0, 4).double()),
        "right for 4 rows of 3, wrong for 3 rows of 3: along which axis does g act?",
    )
    holed = torch.cat([v[:1], torch.zeros(1, 3).double(), v[2:]])
    w0 = norm(g, holed)
    need(torch.isfinite(w0).all(), "a row of zeros gives NaN or infinity; expected zeros")
    need((w0[1] == 0).all() and near(w0[[0, 2, 3]], w[[0, 2, 3]]), "a row of zeros disturbs others")
    leaves(norm, g, v)
    differentiates(norm, g, v)
    return (
        "lengths, directions, short rows, zeros and dtype look right, and the gradient of rows "
        "that are not zero"
    )


@reports
def cosine_norm(norm) -> str:
    """Bounds, shape, dtype, scale, zeros, gradient."""
    x, w = random(5, 3), random(2, 3, seed=1)
    for dtype in (torch.float32, torch.float64):
        is_like(norm(x.to(dtype), w.to(dtype)), (5, 2), dtype)
    y = norm(x, w)
    need((y.abs() <= 1 + 1e-12).all(), "expected numbers from -1 to 1; by which lengths to divide?")
    own = norm(w, w).diagonal()
    need(near(own, torch.ones(2).double()), "expected the cosine 1 of a vector with itself")
    need(near(norm(-x, w), -y), "examples turned around: expected the negative cosines")
    need(near(norm(7 * x, w), y), "seven times the data gives another cosine")
    need(near(norm(x, 7 * w), y), "seven times the weights gives another cosine")
    need(
        near(norm(1e-5 * x, w), y),
        "short examples give another cosine; a length that is above eps should count as it is",
    )
    need(
        near(norm(1e-10 * x, 1e10 * w), norm(1e-10 * x, w)),
        "very short examples with very long weights: eps guards each of the two lengths by itself",
    )
    zeros = torch.zeros(2, 3).double()
    need(near(norm(zeros, w), zeros[:, :2]), "expected 0 for an example of zeros")
    need(near(norm(x, zeros), torch.zeros(5, 2).double()), "expected 0 for a row of zeros in w")
    halves = (0.05 * a / a.square().sum(1, keepdim=True).sqrt() for a in (x, w))
    for name, found in zip(
        "xw", (norm(next(halves), w, 0.1), norm(x, next(halves), 0.1)), strict=True
    ):
        need(
            near(found, y / 2),
            f"with eps = 0.1 a length of 0.05 in {name} should count as 0.1; is the eps that is "
            "given the one that is used, for both lengths?",
        )
    leaves(norm, x, w)
    differentiates(norm, x, w)
    return "bounds, shape, scales, short vectors, zeros, dtype and gradient look right"


def read_grid(text: str) -> dict[str, dict[str, bool]]:
    """Turn a grid of y and n into {layer: {change: True or False}}.

    Raises:
        ValueError: another heading, another layer, or a cell that is neither y nor n.
    """
    head, *lines = [line.split() for line in text.strip().splitlines() if line.strip()]
    if tuple(head) != CHANGES:
        raise ValueError(f"expected the heading {' '.join(CHANGES)}, got {' '.join(head)}")
    grid = {}
    for name, *cells in lines:
        if name not in LAYERS:
            raise ValueError(f"expected a row that begins with one of {LAYERS}, got {name!r}")
        if len(cells) != len(CHANGES) or set(cells) - {"y", "n"}:
            raise ValueError(
                f"expected eight letters, y or n, in the row {name}, got {' '.join(cells)!r}; "
                "fill in each cell, an honest guess is enough"
            )
        grid[name] = {change: cell == "y" for change, cell in zip(CHANGES, cells, strict=True)}
    return grid


def seal(prediction: dict) -> str:
    """Return eight characters that belong to this prediction."""
    rows = ("".join("ny"[bool(prediction[n][c])] for c in CHANGES) for n in LAYERS)
    return hashlib.sha256(" ".join(rows).encode()).hexdigest()[:8]


def complete(grid: dict) -> dict:
    """Return the grid if each of its 32 cells is True or False."""
    for name in LAYERS:
        need(name in grid, f"expected a row {name}, got {sorted(grid)}")
        for change in CHANGES:
            given = grid[name].get(change)
            need(
                given in (True, False),
                f"cell {name}, {change}: expected True or False, got {given!r}",
            )
    return grid


@reports
def prediction(predict) -> str:
    """Completeness; never whether it is right."""
    return f"complete, 32 cells. Its seal: {seal(complete(predict()))}"


@reports
def sealed(predict, sealing) -> str:
    """Whether the seal belongs to the prediction."""
    need(
        str(sealing()).strip().lower() == seal(complete(predict())),
        "the seal is that of another prediction; a slip in copying, or has the prediction changed?",
    )
    return "the seal belongs to the prediction"


def available(layers: dict, gradient: bool = False) -> dict:
    """Return the layers that can be computed, and say which cannot."""
    found, X = {}, random(5, 3)
    for name, layer in layers.items():
        W = random(4, 3).requires_grad_(gradient)
        try:
            y = layer(W, X)
            is_like(y, (5, 4), torch.float64)
            if gradient:
                torch.autograd.grad(y.sum(), W)
        except NotImplementedError:
            print(f"{name}: not available, not written yet")
        except Wrong as wrong:
            print(f"{name}: not available, {wrong}")
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            print(f"{name}: not available, {reason}")
        else:
            found[name] = layer
    return found


def show(matrix: dict, predict: Callable | None = None) -> None:
    """Print a matrix; in brackets the cells that were predicted otherwise."""
    try:
        grid = complete(predict()) if predict else {}
    except Exception:
        print("(no prediction to compare with)")
        grid = {}
    print(" " * 12 + "".join(f"{change:>6}" for change in CHANGES))
    for name, row in matrix.items():
        guess = grid.get(name, row)
        marks = ["y" if row[change] else "n" for change in CHANGES]
        other = [guess.get(change) not in (None, row[change]) for change in CHANGES]
        cells = (f"[{m}]" if o else f" {m} " for m, o in zip(marks, other, strict=True))
        print(f"{name:12}" + "".join(f"{cell:>6}" for cell in cells))
    if grid:
        right = [grid[name][c] == row[c] for name, row in matrix.items() for c in CHANGES]
        print(
            f"{sum(right)} of {len(right)} as predicted, in the prediction with the seal {seal(grid)}"
        )


@reports
def relative_change(measure) -> str:
    """A number, for layers whose answer is known beforehand."""
    W, X = random(4, 3), random(5, 3)

    def product(W, X):
        return X @ W.T

    try:
        found = measure(product, lambda W, X: (W, X), W, X)
    except TypeError as error:
        raise Wrong(
            f"got {error}; a layer takes W and X, two arguments; a change returns a pair"
        ) from error
    is_float(found)
    need(found == 0, f"expected 0 if nothing is changed, got {found}")
    found = measure(product, lambda W, X: (3 * W, X), W, X)
    need(
        abs(found - 2) < 1e-12,
        f"a layer whose output is tripled: expected the relative change 2, got {found:.6g}",
    )
    found = measure(product, lambda W, X: (-W, X), W, X)
    need(abs(found - 2) < 1e-12, f"an output that turns negative: expected 2, got {found:.6g}")
    found = measure(product, lambda W, X: (W, 3 * X), W, X)
    need(found > 1, "a change of X makes no difference; does the changed X reach the layer?")
    ones, one_more = torch.ones(2, 2).double(), torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double()
    found = measure(lambda W, X: W, lambda W, X: (W + one_more, X), ones, X)
    need(
        abs(found - 0.5) < 1e-12,
        f"four outputs of 1, one of them doubled: by the formula 1/2, got {found:.6g}",
    )
    return "a float, 0 for no change, right for a factor"


@reports
def is_invariant(judge) -> str:
    """Every draw counts, and the tolerance does."""
    draws = [(random(4, 3, seed=s), random(5, 3, seed=s)) for s in range(3)]

    def product(W, X):
        return X @ W.T

    def same(W, X):
        return W, X

    def little(W, X):
        return W * (1 + 1e-6), X

    found = judge(product, same, draws)
    need(isinstance(found, bool | np.bool_), f"expected True or False, got {found!r}")
    need(found, "expected True if nothing is changed")
    need(
        not judge(product, little, draws), "a millionth is more than the tolerance: expected False"
    )
    need(judge(product, little, draws, tolerance=1e-3), "expected the tolerance to be used")

    def only_in(position):
        more = 1 + 1.3e-9  # above the tolerance, and not if it is spread over three draws
        return lambda W, X: (more * W if torch.equal(W, draws[position][0]) else W, X)

    for position in range(3):
        need(
            not judge(product, only_in(position), draws),
            f"expected False if the output moves in draw {position + 1} of 3 only, by 1.3e-9",
        )
    return "every draw counts, and the tolerance is used; NaN was not tried"


@reports
def invariance_matrix(fill) -> str:
    """One row for each layer, one cell for each change."""
    draws = [(random(4, 3), random(5, 3))]
    layers = {"product": lambda W, X: X @ W.T, "sign": lambda W, X: (X @ W.T).sign()}
    changes = {"nothing": lambda W, X: (W, X), "2W": lambda W, X: (2 * W, X)}
    found = fill(layers, changes, draws)
    need(isinstance(found, dict), f"expected a dictionary, got {type(found).__name__}")
    need(list(found) == list(layers), f"expected the rows {list(layers)}, got {list(found)}")
    for name in layers:
        cells = list(found[name])
        need(cells == list(changes), f"expected the cells {list(changes)}, got {cells}")
    rows = [list(found[name].values()) for name in layers]
    need(rows == [[True, False], [True, True]], "a row is not what is_invariant should say of it")
    return "rows and cells are in place"


@reports
def with_bias(build) -> str:
    """A function of (W, X), with the bias of each unit."""
    W, X, b = random(4, 3), random(5, 3), random(4, seed=3)
    layer = build(lambda z: z, b)
    need(callable(layer), f"expected a function of (W, X), got {type(layer).__name__}")
    y = layer(W, X)
    is_like(y, (5, 4), torch.float64)
    need(near(layer(0 * W, X), b.expand(5, 4)), "without weights each unit should show its bias")
    need(near(y - b, X @ W.T), "less the bias, expected the product of data and weights")
    need(near(build(torch.sin, b)(W, X), y.sin()), "expected the norm to come after the bias")
    return "the bias comes before the norm"


@reports
def gradient_length(measure) -> str:
    """Agrees with finite differences, and leaves W alone."""
    W, X, T = random(4, 3), random(5, 3), random(5, 4, seed=3)

    def layer(W, X):
        return (X @ W.T).sin()

    found = measure(layer, W, X, T)
    is_float(found)
    slopes = []
    for i in range(W.numel()):
        step = torch.zeros(12).double()
        step[i] = 1e-5
        up, down = ((T * layer(W + sign * step.view(4, 3), X)).sum() for sign in (1, -1))
        slopes.append((up - down).item() / 2e-5)
    expected = math.hypot(*slopes)
    need(
        abs(found / expected - 1) < 1e-6,
        "does not agree with finite differences: the gradient of which loss, in which tensor, and "
        "the length of all its entries?",
    )
    need(not W.requires_grad, "W requires a gradient after the call, and did not before")
    leaf = W.clone().requires_grad_()
    first, second = measure(layer, leaf, X, T), measure(layer, leaf, X, T)
    need(leaf.grad is None, "the call has written to W.grad")
    need(first == second == found, "asked twice, the answers differ; does something add up?")
    return "agrees with finite differences and leaves W alone"


@reports
def slope(fit) -> str:
    """Powers have their exponent as slope."""
    scales = [0.1, 0.5, 2.0, 40.0]
    for power in (-1.0, 0.0, 2.5):
        found = fit(scales, [3 * s**power for s in scales])
        is_float(found)
        need(
            abs(found - power) < 1e-9,
            f"lengths that are 3 times the power {power:g} of the scale: expected that slope, "
            f"got {found:.4g}; the logarithm of which of the two, or of both?",
        )
    need(
        abs(fit([1.0, 10.0, 100.0, 1000.0], [1.0, 10.0, 1.0, 1.0]) + 0.1) < 1e-9,
        "points that lie on no line: expected the slope by least squares; does every point count?",
    )
    return "powers get their exponent, and every point counts"
