"""Checks that you can run yourself: they test properties, or compare with torch, and never raise.

The tests of your teacher ask more than these do; what a ✓ does not cover stands behind it.
"""

import functools

import torch

LETTERS = "ABCDEFGHI"
CAUSES = (
    "bessel-counts-examples",
    "bessel-missing",
    "cancellation",
    "eps-missing",
    "eps-outside-root",
    "eval-uses-batch",
    "eval-updates",
    "examples-apart",
    "graph-in-buffers",
    "momentum-ignored",
    "momentum-reversed",
    "pixels-apart",
    "statistics-detached",
    "unbiased-divides",
    "variance-detached",
    "zero-start",
)


class Wrong(Exception):
    """A property that does not hold, in a sentence for the student."""


def need(holds, sentence: str) -> None:
    """Raise :class:`Wrong` with the sentence unless the property holds."""
    if not holds:
        raise Wrong(sentence)


def outcome(name: str, check, *arguments) -> None:
    """Run a check and print ✓, or ✗ and a sentence."""
    try:
        print(f"✓ {name}: {check(*arguments)}")
    except NotImplementedError:
        print(f"✗ {name}: not written yet")
    except Wrong as wrong:
        print(f"✗ {name}: {wrong}")
    except Exception as error:
        print(f"✗ {name}: your code raised {type(error).__name__}: {error}")


def reports(check):
    """Make a check print its outcome, and never raise."""

    @functools.wraps(check)
    def run(*arguments):
        outcome(check.__name__.replace("_", " "), check, *arguments)

    return run


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return normal random numbers in float64 without touching torch's own generator."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def is_like(y, x: torch.Tensor) -> None:
    """Need a tensor of the shape and the dtype of ``x``."""
    need(isinstance(y, torch.Tensor), f"expected a tensor, got {type(y).__name__}")
    need(y.shape == x.shape, f"expected the shape {tuple(x.shape)}, got {tuple(y.shape)}")
    need(y.dtype == x.dtype, f"expected {x.dtype}, the dtype of the input, got {y.dtype}")


def keeps(function, *inputs: torch.Tensor) -> None:
    """Need a function that leaves its inputs as they are."""
    copies = [tensor.clone() for tensor in inputs]
    function(*copies)
    same = all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))
    need(same, "the call has changed its input; look for +=, *= and methods that end in _")


def near(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-8) -> bool:
    """Whether two tensors agree."""
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance).all())


def call(function, x: torch.Tensor, *rest, where: str = "", **settings):
    """Call a function; if it fails, say for which input."""
    try:
        return function(x, *rest, **settings)
    except NotImplementedError:
        raise
    except Exception as error:
        raise Wrong(
            f"your code raised {type(error).__name__} for an input of shape {tuple(x.shape)}"
            f"{where}: {error}"
        ) from error


def far_apart(a: torch.Tensor, b: torch.Tensor) -> str:
    """Say how far two tensors are apart."""
    return f"they differ by up to {(a - b).abs().max():.2g}"


@reports
def forward(batch_norm):
    """Check shape, dtype, mean, variance and gradient of a forward pass."""
    gamma, beta = random(2, seed=1), random(2, seed=2)
    for x in (random(7, 2) * 3 + 1, random(3, 2, 5), random(3, 2, 4, 5) - 2):
        is_like(call(batch_norm, x, gamma, beta), x)
        is_like(batch_norm(x.float(), gamma.float(), beta.float()), x.float())
        keeps(batch_norm, x, gamma, beta)
        has_moments(batch_norm(x, gamma, beta), x, gamma, beta)
        has_moments(batch_norm(x, gamma, beta, eps=0.1), x, gamma, beta, 0.1)
    inputs = [tensor.clone().requires_grad_() for tensor in (random(4, 2), gamma, beta)]
    follows_differences(batch_norm, inputs)
    return "shapes, dtypes, moments, eps, gradient (not looked at: float32 near 10,000, variance 0)"


def has_moments(y, x, gamma, beta, eps: float = 1e-5) -> None:
    """Need the mean beta and the variance gamma^2 v / (v + eps) in every channel."""
    rows, before = y.transpose(0, 1).flatten(1), x.transpose(0, 1).flatten(1)
    where = f"for an input of shape {tuple(x.shape)} and eps = {eps:g}"
    need(
        near(rows.mean(1), beta),
        f"expected the mean of every channel to be beta {where}, got one that is "
        f"{(rows.mean(1) - beta).abs().max():.2g} away",
    )
    v = before.var(1, correction=0)
    wanted = gamma**2 * v / (v + eps)
    need(
        near(rows.var(1, correction=0), wanted),
        f"expected the variance (divided by m) of every channel to be gamma^2 v / (v + eps) "
        f"{where}; {far_apart(rows.var(1, correction=0), wanted)}",
    )


def follows_differences(function, inputs) -> None:
    """Need gradients that agree with finite differences."""
    try:
        torch.autograd.gradcheck(function, inputs)
    except Exception as error:  # gradcheck's own message is a page of numbers
        raise Wrong(
            "the gradient that autograd finds is not what the output does when an input is "
            "nudged; does any step hide from autograd?"
        ) from error


@reports
def backward(batch_norm_backward, batch_norm):
    """Check a backward pass against finite differences of the student's own forward pass."""
    for size, eps in (((5, 2), 1e-5), ((3, 2, 4), 0.1), ((2, 2, 3, 2), 1e-5)):
        x, dy, gamma, beta = random(*size), random(*size, seed=1), random(2, seed=2), random(2)
        keeps(batch_norm_backward, dy, x, gamma)
        found = call(batch_norm_backward, dy, x, gamma, eps=eps)
        need(len(found) == 3, f"expected dx, dgamma and dbeta, got {len(found)} values")
        for name, gradient, source in zip(
            ("dx", "dgamma", "dbeta"), found, (x, gamma, beta), strict=True
        ):
            need(
                gradient.shape == source.shape,
                f"expected {name} of shape {tuple(source.shape)}, got {tuple(gradient.shape)}",
            )
        sums = found[0].transpose(0, 1).flatten(1).sum(1)
        need(
            near(sums, torch.zeros(2).double()),
            f"expected dx to sum to 0 in every channel, got {sums.abs().max():.2g} for an input "
            f"of shape {size}: adding one number to all x changes no output",
        )
        agrees_with_nudges(found, (x, gamma, beta), dy, written(batch_norm, eps))
    return "shapes, sums of dx, finite differences of your forward pass (not looked at: float32)"


def written(batch_norm, eps: float):
    """Return the student's forward pass for an eps; need one that is there."""

    def forward_pass(*inputs):
        try:
            return batch_norm(*inputs, eps=eps)
        except NotImplementedError:
            raise Wrong("section 1 is not written; the rest of this check needs it") from None

    return forward_pass


def agrees_with_nudges(found, inputs, dy, batch_norm, step: float = 1e-5) -> None:
    """Need each gradient to predict what the loss sum(dy * y) does in a random direction."""
    for index, name in enumerate(("dx", "dgamma", "dbeta")):
        direction = random(*inputs[index].shape, seed=5)

        def loss(scale, index=index, direction=direction):
            moved = [t + scale * direction if i == index else t for i, t in enumerate(inputs)]
            return (dy * batch_norm(*moved)).sum()

        measured = (loss(step) - loss(-step)) / (2 * step)
        promised = (found[index] * direction).sum()
        need(
            abs(measured - promised) < 1e-6,
            f"{name} promises that the loss changes by {promised:.6f} per unit in a random "
            f"direction, but your forward pass changes it by {measured:.6f}",
        )


@reports
def running(running_update):
    """Check that an update moves part of the way and leaves its arguments alone."""
    mean, var = random(2, seed=3), random(2, seed=4).square() + 1
    for x in (random(6, 2) * 2 + 5, random(3, 2, 4), random(2, 2, 3, 3)):
        keeps(running_update, mean, var, x)
        stores_moments(running_update, mean, var, x)
        new = running_update(mean, var, x, 0.2)
        is_like(new[0], mean)
        is_like(new[1], var)
        for old, now, name in zip((mean, var), new, ("mean", "variance"), strict=True):
            full, still = (running_update(mean, var, x, a)[name == "variance"] for a in (1.0, 0.0))
            need(near(still, old), f"with momentum 0 the running {name} should stay as it is")
            need(
                near(now - old, 0.2 * (full - old)),
                f"with momentum 0.2 the running {name} should go a fifth of the way that it goes "
                f"with momentum 1; {far_apart(now - old, 0.2 * (full - old))}",
            )
    x = random(4, 2).requires_grad_()
    need(
        not any(part.requires_grad for part in running_update(mean, var, x)),
        "the new statistics still depend on the batch in the eyes of autograd",
    )
    return "shapes, steps, no graph (which variance is stored, and what m is, you must know)"


def stores_moments(running_update, mean, var, x) -> None:
    """Need the mean of the batch at momentum 1, and a variance that goes with the square of x."""
    where = f"with momentum 1 and an input of shape {tuple(x.shape)}"
    new_mean, new_var = running_update(mean, var, x, 1.0)
    need(
        new_mean.shape == mean.shape and near(new_mean, x.transpose(0, 1).flatten(1).mean(1)),
        f"expected the mean of each channel of the batch {where}",
    )
    need(
        near(running_update(mean, var, 2 * x + 1, 1.0)[1], 4 * new_var),
        f"expected 2 x + 1 to have four times the variance of x {where}",
    )


@reports
def layer(BatchNorm):
    """Check attributes, training and evaluation of a layer."""
    twin = torch.nn.BatchNorm1d(3)
    norm = BatchNorm(3)
    mine, theirs = set(norm.state_dict()), set(twin.state_dict())
    need(mine == theirs, f"expected the state {sorted(theirs)}, got {sorted(mine)}")
    norm(torch.ones(4, 3) * 8)
    need(
        near(norm.running_mean, torch.full((3,), 0.8), 1e-6),
        f"after one batch of mean 8 expected the running mean 0.8, got {norm.running_mean[0]:g}",
    )
    count = norm.num_batches_tracked.item()
    need(count == 1, f"after one batch expected num_batches_tracked = 1, got {count}")
    before = norm.running_mean.clone()
    x = random(5, 3).float()
    first, second = norm.eval()(x), norm(x)
    need(torch.equal(norm.running_mean, before), "evaluation has moved the running mean")
    need(near(first, second, 0), "evaluation answers the same question differently the 2nd time")
    alone = call(norm, x[:1], where=" in evaluation, where one example is fine")
    need(near(alone, first[:1], 1e-6), "evaluation of one example needs its batch-mates")
    need(
        not near(norm.train()(x), first, 1e-3),
        "training and evaluation give the same output; which statistics does each of them use?",
    )
    refuses_one_value(norm)
    has_a_slope(BatchNorm)
    averages(BatchNorm)
    return "state, steps, evaluation (not looked at: gradients, running_var, eps in training)"


def has_a_slope(BatchNorm) -> None:
    """Need an evaluation whose output is the bias at the running mean, and rises by the weight."""
    norm = BatchNorm(3, eps=0.5).double().eval()
    with torch.no_grad():
        for name, value in (("weight", 2), ("bias", 3), ("running_mean", 5), ("running_var", 4)):
            getattr(norm, name).fill_(value)
    for size in ((2, 3), (2, 3, 5), (2, 3, 4, 4)):
        x = torch.full(size, 5.0, dtype=torch.float64)
        at_mean, above = call(norm, x), call(norm, x + 4.5**0.5)
        is_like(at_mean, x)
        where = f"for an input of shape {size}"
        need(near(at_mean, x - 2), f"evaluation at the running mean does not give the bias {where}")
        need(
            near(above - at_mean, torch.full_like(x, 2)),
            "in evaluation an input that is sqrt(running_var + eps) above the running mean should "
            f"be answered with weight + bias; it is not {where}",
        )


def averages(BatchNorm) -> None:
    """Need the plain average of three batches with momentum None, one of them a single image."""
    norm = BatchNorm(3, momentum=None)
    image = torch.linspace(-1, 1, 48).view(1, 3, 4, 4)
    image = image - image.mean((0, 2, 3), keepdim=True)
    for mean in (2, 3, 7):
        call(norm, image + mean, where=" in training with momentum=None")
    need(
        near(norm.running_mean, torch.full((3,), 4.0), 1e-5),
        "with momentum=None, after batches of mean 2, 3 and 7, expected the running mean 4, "
        f"got {norm.running_mean[0]:g}",
    )


def refuses_one_value(norm) -> None:
    """Need a ValueError for a single value per channel in training."""
    try:
        norm.train()(torch.ones(1, 3))
    except ValueError:
        return
    raise Wrong("expected a ValueError for one value per channel in training, got an output")


@reports
def folding(fold):
    """Check that a folded layer answers like linear layer and norm in evaluation."""
    linear, norm = torch.nn.Linear(4, 3).double(), torch.nn.BatchNorm1d(3).double()
    with torch.no_grad():
        for tensor, seed in ((norm.weight, 1), (norm.bias, 2), (norm.running_mean, 3)):
            tensor.copy_(random(3, seed=seed))
        norm.running_var.copy_(random(3, seed=4).square() + 0.1)
    x = random(5, 4)
    wanted = norm.eval()(linear(x))
    both = torch.nn.Sequential(linear, norm).state_dict()
    before = {name: value.clone() for name, value in both.items()}
    folded = fold(linear, norm)
    need(isinstance(folded, torch.nn.Linear), f"expected a Linear, got {type(folded).__name__}")
    same = all(torch.equal(both[name], value) for name, value in before.items())
    need(same, "folding has changed one of the two layers that it was given")
    got = folded(x)
    is_like(got, wanted)
    need(near(got, wanted), f"linear, then norm, is not the folded layer; {far_apart(got, wanted)}")
    return "one layer answers like two (with a bias; try one without)"


@reports
def diagnosis(found):
    """Check that every exhibit has one of the causes; not which."""
    for letter in LETTERS:
        cause = found.get(letter)
        need(
            cause in CAUSES,
            f"expected one of the listed causes for exhibit {letter}, got {cause!r}",
        )
    need(len(set(found.values())) == 9, "two exhibits have the same cause; each has its own")
    return "nine different causes from the list (whether they are right, the symptoms must tell)"


def mended(names: dict) -> None:
    """Compare every mended exhibit with torch's layer."""
    for letter in LETTERS:
        if f"Mended{letter}" in names:
            outcome(f"Mended{letter}", behaves, names[f"Mended{letter}"], letter)
        else:
            print(f"✗ Mended{letter}: not written yet")


def behaves(kind, letter: str) -> str:
    """Need outputs, gradients and running statistics of torch's layer, on tables and images."""
    for size, twin in (
        ((4, 2), torch.nn.BatchNorm1d(2, momentum=0.3)),
        ((2, 2, 3, 3), torch.nn.BatchNorm2d(2, momentum=0.3)),
    ):
        norm, twin = kind(2, momentum=0.3).double(), twin.double()
        x = (random(*size) + 1).requires_grad_()
        where = f"an input of shape {size}"
        y, wanted, dy = norm(x), twin(x), random(*size, seed=1)
        need(near(y, wanted), f"in training the output for {where} is not torch's")
        gradients = (torch.autograd.grad((out * dy).sum(), x)[0] for out in (y, wanted))
        need(near(*gradients), f"in training the gradient for {where} is not torch's")
        for name in ("running_mean", "running_var"):
            same = near(getattr(norm, name), getattr(twin, name))
            need(same, f"after one batch, {name} is not torch's for {where}")
        free = not (norm.running_mean.requires_grad or norm.running_var.requires_grad)
        need(free, "the running statistics remember how they were made")
        norm.eval(), twin.eval()
        need(near(norm(x), twin(x)), f"in evaluation the output for {where} is not torch's")
    far = (random(6, 2, seed=6) * 8).round().float() + 10_000
    need(
        near(kind(2)(far), torch.nn.BatchNorm1d(2)(far), 0.005),
        "in training the output for float32 values near 10,000 is not torch's",
    )
    return f"like torch's on three batches (sheets: the rest); replaced: {replaced(kind, letter)}"


def replaced(kind, letter: str) -> str:
    """Return which methods a mended exhibit replaces; whether it had to is not asked here."""
    own = kind.__mro__[: [base.__name__ for base in kind.__mro__].index(f"Exhibit{letter}")]
    methods = ("__init__", "forward", "statistics", "normalize", "update")
    return ", ".join(name for name in methods if any(name in vars(base) for base in own))
