"""Checks that you run yourself: they look at properties, print what they find, and never raise.

A tick says that a property holds, not that everything does: the graded tests look at more.
"""

import functools

import torch
from torch import nn


def _shows(check):
    """Print a line for every ``(right, name, help)`` of a check; an exception becomes a line."""

    @functools.wraps(check)
    def run(*functions):
        try:
            for right, name, help in check(*functions):
                print(f"✓ {name}" if right else f"✗ {name}: {help}")
        except NotImplementedError:
            print(f"✗ {check.__name__}: not written yet")
        except Exception as error:
            print(
                f"✗ {check.__name__}: stopped with {type(error).__name__}: {error}. "
                "Call the function in a cell of your own to see the line."
            )

    return run


def _near(a, b, within=1e-8):
    return bool((torch.as_tensor(a) - torch.as_tensor(b)).abs().max() <= within)


def _numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _draws(shape, seed=1):
    """Draws with some jitter for values of this shape."""
    u = [0.5 + 0.5 * torch.sin(3 * _numbers(*s, seed=seed)) for s in (shape[1:2],) * 2 + (shape,)]
    return (*u, _numbers(*shape, seed=seed + 1))


QUIET = {"n_mu": 0.0, "n_sigma": 1.0, "r_mu": 0.0, "r_sigma": 0.0}


@_shows
def draw(function):
    """Shapes, sources and freshness of the draws."""
    for shape in ((5, 3), (4, 3, 2, 6)):
        parts = function(shape)
        yield len(parts) == 4, f"four parts for {shape}", f"expected 4 tensors, got {len(parts)}"
        wanted, got = [(3,), (3,), shape, shape], [tuple(part.shape) for part in parts]
        yield got == wanted, "their shapes", f"expected {wanted}, got {got}"
    again = function(shape)
    fresh = all(not torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    yield fresh, "a second call draws anew", "expected other numbers, got some of the first call"

    def half(*size, **_):
        return torch.full(torch.Size(size[0]) if hasattr(size[0], "__len__") else size, 0.5)

    given = function((5, 3), half, half)
    right = all(_near(part, 0.5) for part in given)
    yield right, "all numbers come from rand and randn", "expected the numbers of the two sources"


def _reaches(function, a, draws):
    """Whether a uniform draw that goes from 0 to 1 goes from one limit to the other."""
    for place, name, constant, ends in (
        (0, "μ reaches from -n_mu to n_mu", {"n_mu": 2.0}, (-2.0, 2.0)),
        (1, "σ reaches from 1 to n_sigma", {"n_sigma": 3.0}, (1.0, 3.0)),
        (2, "m reaches from μ - r_mu to μ + r_mu", {"r_mu": 0.1}, (-0.1, 0.1)),
    ):
        found = []
        for u in (0.0, 1.0):
            parts = [torch.full_like(d, u) if i == place else d for i, d in enumerate(draws)]
            out = function(a, *parts, **QUIET | constant)
            found.append(out / a if place == 1 else out - a)
        got = [float(part.mean()) for part in found]
        right = all(_near(part, end) for part, end in zip(found, ends, strict=True))
        yield right, name, f"expected {ends[0]:g} to {ends[1]:g}, got {got[0]:.3g} to {got[1]:.3g}"


@_shows
def disturb(function):
    """What Algorithm 1 does to values, one constant at a time."""
    for shape in ((6, 3), (2, 3, 4, 4)):
        a, draws = _numbers(*shape), _draws(shape)
        axes, kept = [0, 2, 3][: len(shape) - 1], a.clone()
        out = function(a, *draws, **QUIET)
        text = f"expected {tuple(a.shape)}, got {tuple(out.shape)}"
        yield out.shape == a.shape, f"the shape stays, {shape}", text
        yield _near(out, a), "constants of no noise change nothing", "which constant is not used?"
        shift = function(a, *draws, **QUIET | {"n_mu": 2.0}) - a
        same = float(shift.amax(axes).sub(shift.amin(axes)).abs().max())
        yield same < 1e-8, "μ moves a whole unit", f"expected one shift, they differ by {same:.2g}"
        units = len(shift.mean(axes).round(decimals=8).unique())
        yield units == 3, "every unit has its own μ", f"3 units have {units} different shifts"
        yield from _reaches(function, a, draws)
        many = len((function(a, *draws, **QUIET | {"r_mu": 0.1}) - a).unique())
        yield many == a.numel(), "every value has its own m", f"got {many} different shifts"
        once, twice = (function(a, *draws, **QUIET | {"r_sigma": r}) - a for r in (0.1, 0.2))
        yield _near(2 * once, twice), "twice r_sigma: twice the jitter", "deviation or variance?"
        many = len((once / a).round(decimals=8).unique())
        yield many == a.numel(), "every value has its own s", f"got {many} different scales"
        zero = function(0 * a, *draws, **QUIET | {"n_mu": 2.0, "n_sigma": 3.0})
        yield (
            _near(zero, shift),
            "the scale leaves the shift alone",
            "which of the two comes first?",
        )
        yield torch.equal(a, kept), "the input stays", "expected a as it was: work on a new tensor"
    half = function(a.float(), *(part.float() for part in draws)).dtype
    yield half == torch.float32, "float32 stays float32", f"got {half}"


@_shows
def noisy_batch_norm(function):
    """The norm alone, then the noise behind it, then the gradients."""
    z, gamma, beta = 3 * _numbers(8, 3) + 5, _numbers(3, seed=3), _numbers(3, seed=4)
    draws, eps = _draws((8, 3)), 0.1
    out, var = function(z, gamma, beta, draws, eps, **QUIET), z.var(0, correction=0)
    yield _near(out.mean(0), beta), "without noise: mean β", "look at what is subtracted and added"
    wanted = gamma**2 * var / (var + eps)
    yield (
        _near(out.var(0, correction=0), wanted),
        "without noise: variance γ² v / (v + ε)",
        "which variance divides, and where does ε stand?",
    )
    shifted = function(z, gamma, beta, draws, eps, **QUIET | {"n_mu": 1.0})
    moved = (shifted - out).std(0).max()
    yield moved < 1e-8, "a shift behind the norm is a shift", "where does the noise stand?"
    yield (
        bool(((shifted - out).mean(0).abs() > 1e-3).any()),
        "and it is not taken away again",
        "the noise has no effect on the means: where does it stand?",
    )
    flat, louder = (function(z, 0 * gamma, beta, draws, eps, **QUIET | {"n_mu": n}) for n in (0, 1))
    yield not _near(flat, louder), "γ = 0 does not switch it off", "is it behind γ and β, too?"
    x = _numbers(2, 3, 4, 4)
    images = function(x, gamma, beta, _draws((2, 3, 4, 4)), eps, **QUIET)
    table = function(x.transpose(0, 1).flatten(1).T, gamma, beta, _draws((32, 3)), eps, **QUIET)
    same = _near(images.transpose(0, 1).flatten(1).T, table)
    yield same, "images: as a table with a row for each pixel", "which axes belong to the batch?"
    weights, step = _numbers(8, 3, seed=5), 1e-5

    def total(values):
        return (function(values, gamma, beta, draws, eps) * weights).sum()

    probe = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(probe), probe)
    bump = torch.zeros_like(z)
    bump[2, 1] = step
    slope = (total(z + bump) - total(z - bump)) / (2 * step)
    yield (
        _near(gradient[2, 1], slope, 1e-5),
        "the gradient agrees with finite differences",
        f"expected {float(slope):.5f}, got {float(gradient[2, 1]):.5f}",
    )


class _Valley(nn.Module):
    """A quadratic or quartic loss, and a buffer that counts how often it was asked."""

    def __init__(self, power=2):
        super().__init__()
        self.power = power
        self.w = nn.Parameter(_numbers(5, seed=7).float() / 3)
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, x):
        self.asked += 1
        return 0.5 * (x * self.w**self.power).sum()


def _itself(value, _):
    return value


@_shows
def line_probe(function):
    """On a quadratic loss the effective smoothness is the same for every step size."""
    net, curvature = _Valley(), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    net.w.grad = torch.ones(5)
    before, weight = net.w.detach().clone(), net.w

    def probe(sizes):
        return function(net, curvature, None, sizes, _itself)

    line = probe((0.3, 0.01, 0.1))
    got = sorted(line)
    yield got == ["changes", "losses", "smoothness"], "the three entries", f"got {got}"
    losses, changes = torch.as_tensor(line["losses"]), torch.as_tensor(line["changes"])
    yield losses.shape == changes.shape == (3,), "one number per step size", f"got {losses.shape}"
    ratios = changes / torch.tensor([0.3, 0.01, 0.1])
    yield (
        _near(ratios / ratios[0], 1.0, 1e-3),
        "on a quadratic the change grows with the step",
        "is every point on the line through the same weights, and compared with the same gradient?",
    )
    start = float((0.5 * curvature * before**2).sum())
    yield float(losses[1]) < start, "a small step lowers the loss", "which way do you walk?"
    one, other = float(probe((0.01,))["smoothness"]), float(probe((0.3,))["smoothness"])
    same = abs(one - other) < 1e-3 * abs(other)
    yield same, "smoothness is one curvature", f"step 0.01 gives {one:.3g}, 0.3 gives {other:.3g}"
    yield 1 <= other <= 5, "it lies between the curvatures", f"expected 1 to 5, got {other:.3g}"
    steps, steep = (0.05, 0.9, 0.3), _Valley(power=4)
    each = [float(function(steep, curvature, None, (s,), _itself)["smoothness"]) for s in steps]
    largest = float(function(steep, curvature, None, steps, _itself)["smoothness"])
    right = abs(largest - max(each)) < 1e-4 * max(each)
    yield right, "of several steps, the largest", f"one by one the largest is {max(each):.3g}"
    probe((0.1, 30.0))
    kept = net.w is weight and torch.equal(net.w.detach(), before)
    yield kept, "weights bit-equal", "expected the same parameter with the same bits"
    asked = float(net.asked)
    yield asked == 0, "buffers as they were", f"a buffer was 0 and is {asked:g} now"
    grad = net.w.grad is not None and torch.equal(net.w.grad, torch.ones(5))
    yield grad, ".grad as it was", "something was added to it, or it was cleared"
    modes = [(net.train(mode), probe((0.1,)), net.training == mode)[2] for mode in (True, False)]
    yield all(modes), "the mode as it was", "expected the mode in which the network came"


@_shows
def verdict(function):
    """What a verdict must not depend on."""
    inf = float("inf")
    slow, fast = (
        torch.tensor([[90.0, 80.0], [70.0, inf]]),
        torch.tensor([[40.0, inf], [50.0, 30.0]]),
    )
    factors, word = function(slow, fast)
    words = ("supported", "contradicted", "undecided")
    yield word in words, "one of the three words", f"expected one of {words}, got {word!r}"
    yield len(factors) == 2, "one factor per seed", f"expected 2, got {len(factors)}"
    yield bool((torch.as_tensor(factors) > 1).all()), "a lead is above 1", f"got {factors}"
    turned, opposite = function(fast, slow)
    product = torch.as_tensor(factors) * torch.as_tensor(turned)
    yield _near(product, 1.0, 1e-5), "turned round: one over the factors", "which is divided?"
    pair = {word, opposite}
    right = pair == {"supported", "contradicted"} or pair == {"undecided"}
    yield right, "turned round: the opposite word", f"got {word!r} and {opposite!r}"
    doubled, _ = function(2 * slow, 2 * fast)
    yield _near(torch.as_tensor(doubled), torch.as_tensor(factors), 1e-5), "no unit", "see a factor"
    more = torch.cat([slow, torch.full((1, 2), inf)])
    same = _near(torch.as_tensor(function(more, fast)[0]), torch.as_tensor(factors), 1e-5)
    yield same, "a rate that fails changes nothing", "does each seed take its own best rate?"
    never = torch.tensor([[60.0, inf]])
    factors, word = function(never, torch.tensor([[20.0, inf]]))
    yield float(factors[1]) == 1, "1 where neither reaches the goal", f"got {float(factors[1])}"
    yield word == "undecided", "one seed alone decides nothing", f"got {word!r} for {factors}"


def _soft(z_tilde):
    return (torch.sin(z_tilde) + 0.3 * z_tilde**2).sum() + z_tilde[0] * z_tilde[1]


@_shows
def left_side(function):
    """Autograd against finite differences."""
    z, gamma, beta, step = _numbers(5, seed=8), -0.7, 0.4, 1e-5
    got = function(_soft, z, gamma, beta)

    def inner(values):
        z_hat = (values - values.mean()) / values.var(correction=0).sqrt()
        return _soft(gamma * z_hat + beta)

    slopes = [(inner(z + e) - inner(z - e)) / (2 * step) for e in step * torch.eye(5).double()]
    wanted = float(sum(slope**2 for slope in slopes))
    text = f"expected {wanted:.6f}, got {float(got):.6f}"
    yield abs(float(got) - wanted) < 1e-5, "agrees with finite differences", text
    yield not got.requires_grad, "no graph", "expected a tensor that needs no gradient"


@_shows
def printed_right_side(function):
    """How the right side grows, and two cases in which it is easy to see."""
    z, g = _numbers(6, seed=9), _numbers(6, seed=10)
    value = float(function(g, z, 1.5))
    yield _near(float(function(2 * g, z, 1.5)), 4 * value), "twice g: four times", "see the squares"
    yield _near(float(function(g, z, -3.0)), 4 * value), "twice γ: four times", "its sign or square"
    yield _near(float(function(g, 2 * z, 1.5)), value / 4), "twice z: a quarter", "σ, or ẑ?"
    yield _near(float(function(g, z + 7, 1.5)), value), "z + 7: the same", "σ, or ẑ?"
    ones = float(function(torch.ones(6).double(), z, 1.5))
    yield abs(ones) < 1e-9, "g = 1 gives 0", f"as printed, two terms cancel here; got {ones:.3g}"


@_shows
def theorem_41(function):
    """Whether the mended bound is true and sharp on losses whose left side is known."""
    broken, loose = 0, 0
    for seed in range(40):
        m = (3, 5, 16, 50)[seed % 4]
        z, g, gamma = _numbers(m, seed=seed), _numbers(m, seed=seed + 100), 0.3 + 0.1 * seed
        values = z.clone().requires_grad_()
        z_hat = (values - values.mean()) / values.var(correction=0).sqrt()
        (gradient,) = torch.autograd.grad((g * gamma * z_hat).sum(), values)
        left, right = float(gradient.square().sum()), float(function(g, z, gamma))
        broken += right < left - 1e-9 * abs(left)
        loose += right > left + 1e-9 * abs(left)
    yield not broken, "true on 40 batches", f"the left side is larger in {broken} of 40"
    help = f"in {loose} of 40 batches the right side could be lower"
    yield not loose, "as sharp as can be on 40 batches", help


@_shows
def wrong_factor(names):
    """Whether there is an answer at all."""
    if "wrong_factor" not in names:
        raise NotImplementedError
    letter = names["wrong_factor"]
    right = letter in tuple("ABCDEF")
    yield right, "a letter of the table", f"expected one of A to F, got {letter!r}"
