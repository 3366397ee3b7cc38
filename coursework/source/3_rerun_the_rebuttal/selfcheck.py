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


class _Source:
    """Counts, so that every number is new; ``sign`` tells two sources apart."""

    def __init__(self, sign):
        self.sign, self.count = sign, 0

    def __call__(self, *size, **_):
        shape = torch.Size(size[0] if hasattr(size[0], "__len__") else size)
        start, self.count = self.count, self.count + shape.numel()
        numbers = torch.arange(start + 1, self.count + 1, dtype=torch.float64)
        return self.sign * numbers.reshape(shape) / 1024

    def gave(self, numbers):
        counted = 1024 * self.sign * numbers
        whole = (counted == counted.round()) & (counted >= 1) & (counted <= self.count)
        return bool(whole.all())


QUIET = {"n_mu": 0.0, "n_sigma": 1.0, "r_mu": 0.0, "r_sigma": 0.0}


@_shows
def draw(function):
    """Shapes, sources and freshness of the draws."""
    for shape in ((5, 3), (4, 3, 2, 6)):
        parts = function(shape)
        yield len(parts) == 4, f"four parts for {shape}", f"expected 4 tensors, got {len(parts)}"
        wanted, got = [(3,), (3,), shape, shape], [tuple(part.shape) for part in parts]
        yield got == wanted, "their shapes", f"expected {wanted}, got {got}"
        rand, randn = _Source(1), _Source(-1)
        given = [torch.as_tensor(part).flatten() for part in function(shape, rand, randn)]
        for part, name in zip(given, ("u_mu", "u_sigma", "u_m", "e_s"), strict=True):
            source = randn if name == "e_s" else rand
            right, where = source.gave(part), "randn" if name == "e_s" else "rand"
            yield right, f"{name}: numbers of {where}, as they are", "which source, and what then?"
        many, count = len(torch.cat(given).unique()), sum(part.numel() for part in given)
        yield many == count, "no number twice", f"{count} are wanted, {many} of them differ"
    again = function(shape)
    fresh = all(not torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    yield fresh, "a second call draws anew", "expected other numbers, got some of the first call"


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
        try:
            out = function(a, *draws, **QUIET)
        except NotImplementedError:
            raise
        except RuntimeError as error:
            yield False, f"values of shape {shape}", f"{error}. The unit is axis 1 of a"
            return
        text = f"expected {tuple(a.shape)}, got {tuple(out.shape)}"
        yield out.shape == a.shape, f"the shape stays, {shape}", text
        still = out.shape == a.shape and _near(out, a)
        text = "which limits does σ have? It is 1 if n_sigma is 1. (I stop here.)"
        yield still, "constants of no noise change nothing", text
        if not still:
            return
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
        u_mu, u_sigma, u_m, e_s = draws
        back = function(a, u_mu, u_sigma, u_m, -e_s, **QUIET | {"r_sigma": 0.1}) - a
        yield _near(back, -once), "-e_s mirrors the jitter", "the scale may be on both sides of σ"
        units, values = {"n_mu": 2.0, "n_sigma": 3.0}, {"r_mu": 0.1, "r_sigma": 0.1}
        noisy, quiet = (function(a, *draws, **QUIET | part) - a for part in (units, QUIET))
        both, alone = (function(a, *draws, **p | values) - a for p in (units, QUIET))
        yield (
            _near(both - noisy, alone - quiet),
            "the width of the jitter does not depend on μ and σ",
            "with both n_sigma = 3 and r_sigma = 0.1 the deviation of s is 0.1",
        )
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
    still = _near(out, function(z, gamma, beta, _draws((8, 3), seed=6), eps, **QUIET))
    yield (
        still,
        "constants of no noise: the draws do not matter",
        "do the constants reach `disturb`, and does it pass its own check? (I stop here.)",
    )
    if not still:
        return
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

    def total(*inputs):
        return (function(*inputs, draws, eps) * weights).sum()

    inputs = [part.clone().requires_grad_() for part in (z, gamma, beta)]
    found = torch.autograd.grad(total(*inputs), inputs, allow_unused=True)
    for i, (name, gradient) in enumerate(zip(("z", "γ", "β"), found, strict=True)):
        bump = torch.zeros_like(inputs[i])
        bump[(2, 1)[: bump.dim()]] = step
        ends = [total(*(p + s * bump if p is inputs[i] else p for p in inputs)) for s in (1, -1)]
        slope = float((ends[0] - ends[1]).detach() / (2 * step))
        got = None if gradient is None else float(gradient[bump > 0])
        right = got is not None and abs(got - slope) < 1e-5
        text = f"expected {slope:.5f}, got {got}"
        yield right, f"the gradient of {name} agrees with finite differences", text


class _Valley(nn.Module):
    """A quadratic or quartic loss of two parameters, and a buffer that counts how often it was asked."""

    def __init__(self, power=2):
        super().__init__()
        self.power = power
        self.w, self.v = (nn.Parameter(p.float() / 3) for p in _numbers(5, seed=7).split([2, 3]))
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, x):
        self.asked += 1
        return 0.5 * (x * torch.cat([self.w, self.v]) ** self.power).sum()


class _Moody(_Valley):
    """Three times as high in evaluation mode."""

    def forward(self, x):
        return super().forward(x) * (1 if self.training else 3)


def _itself(value, _):
    return value


@_shows
def line_probe(function):
    """On a quadratic loss the effective smoothness is the same for every step size."""
    net, curvature = _Valley(), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    net.w.grad = torch.ones(2)
    weights = [net.w, net.v]
    before = torch.cat(weights).detach()

    def probe(sizes):
        return function(net, curvature, None, sizes, _itself)

    line = probe((0.3, 0.01, 0.1))
    got = sorted(line)
    yield got == ["changes", "losses", "smoothness"], "the three entries", f"got {got}"
    plain = all(torch.is_tensor(part) and not part.requires_grad for part in line.values())
    yield plain, "tensors without a graph", f"got {[type(part).__name__ for part in line.values()]}"
    losses, changes = (torch.as_tensor(line[name]).detach() for name in ("losses", "changes"))
    yield losses.shape == changes.shape == (3,), "one number per step size", f"got {losses.shape}"
    moves = changes.shape == (3,) and bool((changes != 0).all())
    text = f"got {changes.tolist()}. Is g still the gradient at w when you compare? (I stop here.)"
    yield moves, "on a quadratic the gradient changes at every step", text
    if not moves:
        return
    ratios = changes / torch.tensor([0.3, 0.01, 0.1])
    yield (
        _near(ratios / ratios[0], 1.0, 1e-3),
        "on a quadratic the change grows with the step",
        "is every point on the line through the same weights, compared with the same gradient, "
        "and in the order of `sizes`?",
    )
    start = float((0.5 * curvature * before**2).sum())
    yield float(losses[1]) < start, "a small step lowers the loss", "which way do you walk?"
    one, other = float(probe((0.01,))["smoothness"]), float(probe((0.3,))["smoothness"])
    same = abs(one - other) < 1e-3 * abs(other)
    yield same, "smoothness is one curvature", f"step 0.01 gives {one:.3g}, 0.3 gives {other:.3g}"
    yield 1 <= other <= 5, "it lies between the curvatures", f"expected 1 to 5, got {other:.3g}"
    moved = torch.linalg.vector_norm(curvature**2 * before)
    yield (
        _near(ratios, moved, 1e-3),
        "the change has one length, over both parameters together",
        f"expected {float(moved):.4g} times the step, got {float(ratios[0]):.4g}",
    )
    start_slope = torch.linalg.vector_norm(curvature * before)
    yield (
        abs(other - float(moved / start_slope)) < 1e-3 * other,
        "and so has the distance",
        f"expected a smoothness of {float(moved / start_slope):.4g}, got {other:.4g}",
    )
    steps, steep = (0.05, 0.9, 0.3), _Valley(power=4)
    each = [float(function(steep, curvature, None, (s,), _itself)["smoothness"]) for s in steps]
    largest = float(function(steep, curvature, None, steps, _itself)["smoothness"])
    right = abs(largest - max(each)) < 1e-4 * max(each)
    yield right, "of several steps, the largest", f"one by one the largest is {max(each):.3g}"
    probe((0.1, 30.0))
    same = all(a is b for a, b in zip(net.parameters(), weights, strict=True))
    kept = same and torch.equal(torch.cat([net.w, net.v]).detach(), before)
    yield kept, "weights bit-equal", "expected the same parameter with the same bits"
    asked = float(net.asked)
    yield asked == 0, "buffers as they were", f"a buffer was 0 and is {asked:g} now"
    grad = net.w.grad is not None and torch.equal(net.w.grad, torch.ones(2))
    grad = grad and net.v.grad is None
    yield grad, ".grad as it was", "something was added to it, or it was cleared"
    for mode, name in ((True, "training"), (False, "evaluation")):
        moody = _Moody().train(mode)
        got = float(function(moody, curvature, None, (1e-4,), _itself)["losses"][0])
        asked = start if mode else 3 * start
        text = f"expected a loss of about {asked:.3g}, got {got:.3g}"
        yield abs(got - asked) < 0.1 * start, f"probed in {name} mode, if it came so", text
        text = "expected the mode in which the network came"
        yield moody.training == mode, f"and left in {name} mode", text


@_shows
def printed_right_side(function):
    """How the right side grows, and one number that was worked by hand."""
    z, g = _numbers(6, seed=9), _numbers(6, seed=10)
    value = float(function(g, z, 1.5))
    yield _near(float(function(2 * g, z, 1.5)), 4 * value), "twice g: four times", "see the squares"
    yield _near(float(function(g, z, -3.0)), 4 * value), "twice γ: four times", "its sign or square"
    yield _near(float(function(g, 2 * z, 1.5)), value / 4), "twice z: a quarter", "σ, or ẑ?"
    yield _near(float(function(g, z + 7, 1.5)), value), "z + 7: the same", "σ, or ẑ?"
    by_hand = float(function(*HAND, 1.0))
    text = f"as printed it is 12/49 = {12 / 49:.6f} (σ² is 3.5), got {by_hand:.6f}"
    yield abs(by_hand - 12 / 49) < 1e-9, "z = 1, 2, 3, 6 and g = 3, 0, 1, 0, by hand", text


HAND = torch.tensor([[3.0, 0.0, 1.0, 0.0], [1.0, 2.0, 3.0, 6.0]]).double()  # g and z


@_shows
def needed_factors(function):
    """What is needed for left sides that are made up."""
    z, g = _numbers(6, seed=9), _numbers(6, seed=10)
    same = function(12 / 49, *HAND, 1.0)
    got = (tuple(same.shape), same.dtype) if torch.is_tensor(same) else type(same).__name__
    right = got == ((4,), torch.float64)
    yield right, "four numbers", f"expected a tensor (4,) of float64, got {got}"
    if not right:
        return
    wanted = torch.tensor([2 / 7, 1, 1 / 4, 1 / 2], dtype=torch.float64)
    text = "z = 1, 2, 3, 6 and g = 3, 0, 1, 0: if the left side is the printed one, nothing has to change"
    yield _near(same, wanted), "equal sides: the factors as printed", text
    front, *inside = function(2.0, *HAND, 1.0).tolist()
    yield abs(front - 7 / 3) < 1e-9, "A by hand", f"for a left side of 2: 7/3, got {front:.6f}"
    total = sum(inside)
    text = f"for a left side of 2: {6971 / 5040:.6f}, got {total:.6f}. Are the others as printed?"
    yield abs(total - 6971 / 5040) < 1e-9, "the sum of B, C and D by hand", text
    one, other = function(1.7, g, z, 1.5), function(4 * 1.7, g, z, -3.0)
    yield _near(one[1:], other[1:]), "twice γ, four times left: B, C, D stay", "where is γ?"
    zero_sum = torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=torch.float64)
    *others, c, d = function(2.0, zero_sum, HAND[1], 1.0)
    text = f"with ⟨1, g⟩ = 0 no C can help, and the function says C = {float(c):.3g}"
    yield not bool(c.isfinite()), "a division by 0 is left as it is", text
    text = "only ⟨1, g⟩ is 0 here, so A, B and D are numbers"
    yield bool(torch.stack([*others, d]).isfinite().all()), "and only where it happens", text


@_shows
def theorem_41(function):
    """Whether the mended bound is true on losses whose left side is known."""
    broken = 0
    for seed in range(40):
        m = (3, 5, 16, 50)[seed % 4]
        z, g, gamma = _numbers(m, seed=seed), _numbers(m, seed=seed + 100), 0.3 + 0.1 * seed
        values = z.clone().requires_grad_()
        z_hat = (values - values.mean()) / values.var(correction=0).sqrt()
        (gradient,) = torch.autograd.grad((g * gamma * z_hat).sum(), values)
        left, right = float(gradient.square().sum()), float(function(g, z, gamma))
        broken += right < left - 1e-9 * abs(left)
    help = f"the left side is larger in {broken} of 40"
    yield not broken, "true on 40 batches (how sharp it is, this check does not say)", help


@_shows
def wrong_factor(names):
    """Whether there is an answer at all."""
    if "wrong_factor" not in names:
        raise NotImplementedError
    letter = names["wrong_factor"]
    right = letter in tuple("ABCD")
    yield right, "a letter of the table", f"expected one of A to D, got {letter!r}"
