"""What the answers to assignment 3 must be: NumPy in float64, and autograd for the small network."""

import numpy as np
import torch

from grader.judge import Check, differs, observed_inputs

o = observed_inputs(__file__)
CLOSE = {"rtol": 1e-9, "atol": 1e-10}
SINGLE = {"rtol": 1e-5, "atol": 1e-5}

# --- Algorithm 1 -------------------------------------------------------------------------------


def per_unit(values, like):
    """One number for each unit, against axis 1."""
    return np.asarray(values).reshape((1, -1) + (1,) * (like.ndim - 2))


def noisy(a, u_mu, u_sigma, u_m, e_s, n_mu=0.5, n_sigma=1.25, r_mu=0.1, r_sigma=0.1):
    """Algorithm 1, from its draws."""
    a, u_m, e_s = (np.asarray(part, dtype=np.float64) for part in (a, u_m, e_s))
    low, high = per_unit(u_mu, a) * 0 - n_mu, n_mu
    mu = low + (high - low) * per_unit(u_mu, a)
    sigma = 1 + per_unit(u_sigma, a) * (n_sigma - 1)
    m = (mu - r_mu) + 2 * r_mu * u_m
    return (sigma + r_sigma * e_s) * a + m


def normed(z, gamma, beta, eps=1e-5):
    """Batch norm in training mode."""
    z = np.asarray(z, dtype=np.float64)
    axes = (0, *range(2, z.ndim))
    z_hat = (z - z.mean(axes, keepdims=True)) / np.sqrt(z.var(axes, keepdims=True) + eps)
    return per_unit(gamma, z) * z_hat + per_unit(beta, z)


TABLE = (o.TABLE, o.U_MU, o.U_SIGMA, o.U_M, o.E_S)
IMAGES = [part.numpy() for part in o.images()]


def gradients():
    """Of z, gamma and beta, by the closed form of the backward pass."""
    z, eps = np.array(o.TABLE), 0.01
    scale = 1 + np.array(o.U_SIGMA) * (o.CONSTANTS["n_sigma"] - 1)
    g = np.array(o.WEIGHTS) * (scale + o.CONSTANTS["r_sigma"] * np.array(o.E_S))
    r = np.sqrt(z.var(0) + eps)
    z_hat = (z - z.mean(0)) / r
    dz = np.array(o.GAMMA) / r * (g - g.mean(0) - z_hat * (g * z_hat).mean(0))
    return [dz, (g * z_hat).sum(0), g.sum(0)]


def drawn(answer, shape):
    """Return what is wrong with the four draws of one step, or None."""
    if not isinstance(answer, list) or len(answer) != 4:
        return "expected four tensors: u_mu, u_sigma, u_m, e_s"
    wanted = [shape[1:2], shape[1:2], shape, shape]
    got = [getattr(part, "shape", None) for part in answer]
    if got != wanted:
        return f"expected the shapes {wanted}, got {got}"
    for name, part, low, high in zip(
        ("u_mu", "u_sigma", "u_m", "e_s"), answer, (0, 0, 0, -1), (1, 1, 1, 0), strict=True
    ):
        counted = np.isfinite(part).all() and (part * 1024 == np.rint(part * 1024)).all()
        if not counted or not ((part >= low) & (part <= high)).all():
            return f"{name} does not come from its source as it is"
    count = sum(part.size for part in answer)
    if len(np.unique(np.concatenate([part.ravel() for part in answer]))) < count:
        return "a number is used twice"
    return None


def two_steps(answer):
    """Return what is wrong with the draws of two steps, or None."""
    wrong = [drawn(step, (4, 2)) for step in answer] if isinstance(answer, list) else ["no list"]
    if any(wrong) or len(wrong) != 2:
        return next(filter(None, wrong), "expected two steps")
    if any(np.intersect1d(a, b).size for a, b in zip(*answer, strict=True)):
        return "the second step has numbers of the first"
    return None


# --- the line probe ----------------------------------------------------------------------------


def valley():
    """Losses, changes and smoothness on the quadratic, in closed form."""
    h, w, sizes = (np.array(part) for part in (o.CURVATURE, o.POINT, o.SIZES))
    there = w - sizes[:, None] * h * w
    changes = sizes * np.linalg.norm(h * h * w)
    smoothness = np.linalg.norm(h * h * w) / np.linalg.norm(h * w)
    return {"losses": 0.5 * (h * there**2).sum(1), "changes": changes, "smoothness": smoothness}


def net_loss(parts, training):
    """The loss of the small network as a function of its six parameters."""
    first, first_bias, scale, shift, last, last_bias = parts
    x, y = torch.tensor(o.X, dtype=torch.float64), torch.tensor(o.Y)
    z = x @ first.T + first_bias
    mean = z.mean(0) if training else torch.tensor(o.RUNNING_MEAN, dtype=torch.float64)
    var = (
        ((z - mean) ** 2).mean(0) if training else torch.tensor(o.RUNNING_VAR, dtype=torch.float64)
    )
    a = torch.tanh(scale * (z - mean) / torch.sqrt(var + 1e-5) + shift)
    logits = a @ last.T + last_bias
    return -torch.log_softmax(logits, 1)[range(len(y)), y].mean()


def net(training=True):
    """Losses, changes and smoothness of the small network."""
    stored = (o.FIRST, o.FIRST_BIAS, o.SCALE, o.SHIFT, o.LAST, o.LAST_BIAS)

    def at(values):
        parts = [torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in values]
        loss = net_loss(parts, training)
        grads = torch.autograd.grad(loss, parts)
        return loss.item(), np.concatenate([grad.numpy().ravel() for grad in grads])

    shapes = [np.shape(part) for part in stored]
    w = np.concatenate([np.ravel(part) for part in stored])
    cuts = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])[:-1]

    def cut(vector):
        parts = zip(np.split(vector, cuts), shapes, strict=True)
        return [part.reshape(shape) for part, shape in parts]

    _, g = at(cut(w))
    found = [at(cut(w - size * g)) for size in o.NET_SIZES]
    changes = np.array([np.linalg.norm(there - g) for _, there in found])
    return {
        "losses": np.array([loss for loss, _ in found]),
        "changes": changes,
        "smoothness": (changes / (np.array(o.NET_SIZES) * np.linalg.norm(g))).max(),
    }


VALLEY, NET, EVALUATION = valley(), net(), net(training=False)


def untouched(expected):
    """The network as it was, after a walk that did go somewhere."""

    def passes(answer):
        if not isinstance(answer, dict) or set(answer) != {"losses", *expected}:
            return "expected the losses and the state of the network"
        losses = answer.pop("losses")
        if np.shape(losses) != (len(o.NET_SIZES),) or np.ptp(losses) < 1e-3:
            return "the losses do not differ from point to point: did the weights move at all?"
        return differs(answer, expected, Check(0, rtol=0, atol=0))

    return passes


def single(parts):
    """Literals as float32 holds them."""
    return [np.asarray(part, dtype=np.float32).astype(np.float64) for part in parts]


STORED = (o.FIRST, o.FIRST_BIAS, o.SCALE, o.SHIFT, o.LAST, o.LAST_BIAS)
WEIGHTS = single(STORED)
BUFFERS = [*single((o.RUNNING_MEAN, o.RUNNING_VAR)), 17]
GRADS = [np.full(np.shape(part), 0.25) for part in STORED]

# --- the theorem -------------------------------------------------------------------------------


def left(g, z, gamma):
    """The true squared gradient: what a straight line in (1, z_hat) leaves of g, scaled."""
    plane = np.stack([np.ones_like(z), z], 1)
    rest = g - plane @ np.linalg.lstsq(plane, g, rcond=None)[0]
    return gamma**2 / z.var() * (rest @ rest)


def printed(g, z, gamma):
    """The right side as the assignment prints it. For a variation, change this and the text."""
    m, z_hat = len(z), (z - z.mean()) / z.std()
    bracket = g @ g - g.sum() ** 2 / m - (g @ z_hat) ** 2 / np.sqrt(m)
    return gamma**2 / z.var() * bracket


LETTER = "D"  # of the factor that is misprinted there


def needed(m, left, spread=1.0):
    """The four factors for the stored vectors of this size."""
    return factors(np.array(o.G[m]), spread * np.array(o.Z[m]), o.GAMMAS[m], left)


def factors(g, z, gamma, left):
    """What each factor alone has to be. For a variation, change the last of the three here, too."""
    m, z_hat = len(z), (z - z.mean()) / z.std()
    front = gamma**2 / z.var()
    sizes = np.array([g @ g, -(g.sum() ** 2), -((g @ z_hat) ** 2)])
    terms = sizes * [1, 1 / m, 1 / np.sqrt(m)]
    others = terms.sum() - terms
    with np.errstate(divide="ignore"):
        return np.array([left / terms.sum(), *((left / front - others) / sizes)])


def stored(side, *sizes):
    """A side for the stored vectors of these sizes."""
    return [side(np.array(o.G[m]), np.array(o.Z[m]), o.GAMMAS[m]) for m in sizes or o.Z]


def spreads(side, m=12, gamma=0.7):
    """A side for a tiny and a large spread."""
    g, z = np.array(o.G[m]), np.array(o.Z[m])
    return [side(g, spread * z + 5, gamma) for spread in (0.01, 40.0)]


def without_sum(answer):
    """Return what is wrong with B, C and D for a gradient whose sum is 0, or None."""
    if not isinstance(answer, np.ndarray) or answer.shape != (3,):
        return "expected a tensor of four numbers"
    if np.isfinite(answer[1]):
        return f"the sum of g is 0, so no number is the answer for C; got {answer[1]:.4g}"
    wanted = factors(np.array(o.ZERO_SUM), np.array(o.Z[4]), 1.7, 2.0)
    return differs(answer[[0, 2]], wanted[[1, 3]], Check(0, **CLOSE))


CHECKS = {
    "draw": {
        "sources": Check(
            2,
            passes=lambda answer: drawn(answer, (5, 3)),
            hint="Two numbers per unit, two per value; which source for which?",
        ),
        "image_draws": Check(
            1,
            passes=lambda answer: drawn(answer, (2, 3, 4, 5)),
            hint="What is a unit in images, and what is a value?",
        ),
        "second_step": Check(1, passes=two_steps, hint="Is anything kept from call to call?"),
    },
    "disturb": {
        "unit_noise": Check(
            2,
            noisy(*TABLE, n_mu=1.3, n_sigma=2.7, r_mu=0, r_sigma=0),
            **CLOSE,
            hint="Between which limits do μ and σ lie? Which axis is the unit?",
        ),
        "value_noise": Check(
            2,
            noisy(*TABLE, n_mu=0, n_sigma=1, r_mu=0.35, r_sigma=0.6),
            **CLOSE,
            hint="Who shares m and s with whom? How wide are their distributions?",
        ),
        "papers_constants": Check(
            2, noisy(*TABLE), **CLOSE, hint="Which of the two is applied first, scale or shift?"
        ),
        "pixels": Check(
            2,
            noisy(*IMAGES, **o.CONSTANTS),
            **CLOSE,
            hint="Along which axis do the numbers of the units lie in images?",
        ),
        "single": Check(
            1,
            noisy(*TABLE, **o.CONSTANTS),
            **SINGLE,
            dtype="float32",
            hint="Does anything change the dtype?",
        ),
        "inputs_stay": Check(
            1,
            {"out": noisy(*TABLE, **o.CONSTANTS), "given": [np.array(part) for part in TABLE]},
            **CLOSE,
            hint="Does the function write into a tensor that it was given?",
        ),
    },
    "noisy-batch-norm": {
        "norm_alone": Check(
            2,
            normed(0.1 * np.array(o.TABLE) + 2, o.GAMMA, o.BETA, 0.01),
            **CLOSE,
            hint="Which variance divides, and where does ε stand?",
        ),
        "norm_and_noise": Check(
            2,
            noisy(normed(o.TABLE, o.GAMMA, o.BETA), *TABLE[1:], **o.CONSTANTS),
            **CLOSE,
            hint="In which order do the norm, γ and β, and the noise stand?",
        ),
        "norm_of_images": Check(
            2,
            noisy(normed(IMAGES[0], o.GAMMA, o.BETA), *IMAGES[1:]),
            **CLOSE,
            hint="Over which axes are the statistics of a channel taken?",
        ),
        "norm_gradients": Check(
            2, gradients, **CLOSE, hint="Do mean and variance take part in the gradient?"
        ),
    },
    "line-probe": {
        "valley_losses": Check(
            2, VALLEY["losses"], hint="Every point: from the same weights, downhill?"
        ),
        "valley_changes": Check(2, VALLEY["changes"], hint="Which two gradients are compared?"),
        "valley_smoothness": Check(2, VALLEY["smoothness"], hint="What is the distance moved?"),
        "net_losses": Check(2, NET["losses"], hint="Which batch, and which mode?"),
        "net_changes": Check(2, NET["changes"], hint="One length over all parameters together?"),
        "net_smoothness": Check(
            2, NET["smoothness"], hint="Over which of the step sizes is it taken?"
        ),
        "net_in_evaluation": Check(
            1,
            {"losses": EVALUATION["losses"], "modes": [0] * 5},
            hint="Does the probe change the mode of the network?",
        ),
        "weights_after": Check(
            3,
            passes=untouched({"after": WEIGHTS, "held": WEIGHTS}),
            hint="Rounding: is adding again what was subtracted the same as putting it back?",
        ),
        "buffers_after": Check(
            3,
            passes=untouched({"buffers": BUFFERS, "modes": [1] * 5}),
            hint="What does a norm in training mode do each time it is asked?",
        ),
        "grad_after": Check(
            1, passes=untouched({"grads": GRADS}), hint="Where does backward() put its result?"
        ),
    },
    "theorem-sides": {
        "right_printed": Check(
            3,
            lambda: stored(printed),
            **CLOSE,
            hint="Go through the printed line factor by factor.",
        ),
        "right_spread": Check(
            1, lambda: spreads(printed, 7, -1.6), **CLOSE, hint="ε is 0 here. Where does σ come in?"
        ),
    },
    "theorem-needed": {
        "needed_front": Check(
            1,
            lambda: [needed(m, left)[0] for m, left in o.LEFTS.items()],
            **CLOSE,
            hint="A is given. What did `printed_right_side` get, and is the order A, B, C, D?",
        ),
        "needed_inside": Check(
            5,
            lambda: [needed(m, left)[1:] for m, left in o.LEFTS.items()],
            **CLOSE,
            hint="Are the three other factors as printed? Which terms are subtracted?",
        ),
        "needed_wide": Check(
            1,
            lambda: [needed(12, 2.0 / spread**2, spread)[1:] for spread in (0.01, 40.0)],
            **CLOSE,
            hint="Where do γ and σ come in?",
        ),
        "needed_zero": Check(
            1, passes=without_sum, hint="Which of the three divides by 0 here, and what comes out?"
        ),
    },
    "theorem-mended": {
        "mended_sizes": Check(
            2, lambda: stored(left), **CLOSE, hint="Did you try several numbers of examples?"
        ),
        "mended_spread": Check(
            1, lambda: spreads(left), **CLOSE, hint="Did you try several spreads of z?"
        ),
        "letter": Check(1, LETTER, hint="Whose needed value stays when g changes?"),
    },
}
