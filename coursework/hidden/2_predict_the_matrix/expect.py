"""What "Predict the matrix" should answer: references in float64, without torch's norms."""

import hashlib
from functools import cache

import numpy as np
import torch

from grader.judge import Check, observed_inputs

o = observed_inputs(__file__)
FINE = {"rtol": 1e-10, "atol": 1e-12, "dtype": "float64"}
COARSE = {"rtol": 1e-5, "atol": 2e-6, "dtype": "float32"}


def layer_norm(z, gamma=None, beta=None, eps=1e-5):
    apart = z - z.mean(-1, keepdim=True)
    y = apart * (apart.square().mean(-1, keepdim=True) + eps) ** -0.5
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def weight_norm(g, v):
    length = v.square().sum(1, keepdim=True)
    return g[:, None] * v * torch.where(length > 0, length, 1.0) ** -0.5


def cosine_norm(x, w, eps=1e-8):
    lengths = [a.square().sum(1).sqrt().clamp(min=eps) for a in (x, w)]
    return (x @ w.T) / torch.outer(*lengths)


REFERENCE = {"layer_norm": layer_norm, "weight_norm": weight_norm, "cosine_norm": cosine_norm}


def reference(name: str, *inputs, **options):
    """The answer of a norm, as a function without arguments."""
    return lambda: REFERENCE[name](*map(o.wide, inputs), **options)


def gradients(name: str, inputs, top):
    return lambda: o.gradients(REFERENCE[name], inputs, top)


def unmoved(*inputs):
    return {"inputs": [o.wide(values) for values in inputs], "moved": 0.0}


def parts():
    z, gamma, beta = o.wide(o.TALL), o.wide(o.GAMMA3), o.wide(o.BETA3)
    return {
        "gamma": layer_norm(z, gamma),
        "beta": layer_norm(z, beta=beta),
        "neither": layer_norm(z),
        "one": layer_norm(z[1], gamma, beta),
    }


def quiet():
    return [layer_norm(o.wide(o.QUIET), eps=1e-3), layer_norm(0.1 * o.wide(o.QUIET))]


def measure(norm, change, W, X):
    old, new = norm(W, X), norm(*change(W, X))
    return ((new - old).square().sum() / old.square().sum()).sqrt().item()


def linear():
    W, X = o.pairs()[0]
    asked = [o.changes()[title] for title in ("3w", "-2W", "X+c")]
    asked += [lambda W, X: (W + 1, 2 * X), lambda W, X: (W * 1e-9 + W, X)]
    return [measure(o.product, change, W, X) for change in asked]


def numbers(name: str):
    norm, (W, X) = o.layer(REFERENCE, name), o.pairs()[0]
    return lambda: {title: measure(norm, change, W, X) for title, change in o.changes().items()}


ROWS = {  # the order of the changes: 2W -2W 3w W+v 4X 5x X+c X+a
    "batch": "ynynynyy",
    "layer": "ynnyyynn",
    "weight": "ynynnnnn",
    "cosine": "ynynyynn",
    "linear": "nnnnnnnn",
    "sign": "ynynyynn",
    "difference": "nnnnnnyy",
}


def row(*names: str):
    titles = list(o.changes())
    return {
        name: {title: int(mark == "y") for title, mark in zip(titles, ROWS[name], strict=True)}
        for name in names
    }


def bias_output():
    W, X = o.pairs()[1]
    z, b = X @ W.T, o.wide(o.BIAS)
    return [(z + b).sin(), o.over_examples(z), (z - 2 * b).sin(), (2 * z + b).sin()]


def bias_row(norm):
    (W, X), b = o.pairs()[0], o.wide(o.BIAS)

    def move(change):
        W2, X2 = change(W, X)
        return norm(X2 @ W2.T + b) - norm(X @ W.T + b)

    return lambda: {title: move(change) for title, change in o.changes().items()}


def exact_layer_norm(z):
    return layer_norm(z, eps=0.0)


def length(norm, W, X) -> float:
    W = W.clone().requires_grad_()
    (found,) = torch.autograd.grad((o.wide(o.TOP) * norm(W, X)).sum(), W)
    return found.square().sum().sqrt().item()


def linear_gradient():
    W, X = o.pairs()[0]
    return [length(o.product, W, X), length(lambda W, X: o.product(W, X) ** 2, W, X)]


def left_alone():
    W, X = o.pairs()[0]
    found = length(o.product, W, X)
    return {"lengths": [found, found], "flags": [0, 1], "grad": None, "W": W}


@cache
def at_scales(name: str):
    norm, (W, X) = o.layer(REFERENCE, name), o.pairs()[1]
    scaled = [(0.5 * W, X), (W, X), (20 * W, X), (W, 20 * X)]
    return [length(norm, *pair) for pair in scaled]


def slopes():
    fitted = np.polyfit(np.log(o.SCALES), np.log(o.UNEVEN), 1)[0]
    return np.array([-1.5, -2.0, fitted])


def complete(grid) -> str | None:
    """Every cell holds True or False; which of the two is not asked."""
    for name in o.SEALED_LAYERS:
        for title in o.changes():
            if grid[name][title] not in (True, False):
                return f"the cell {name}, {title} holds {grid[name][title]!r}, not True or False"
    return None


def sealed(answer) -> str | None:
    if reason := complete(answer["cells"]):
        return reason
    marks = ("".join("ny"[bool(v)] for v in answer["cells"][n].values()) for n in o.SEALED_LAYERS)
    seal = hashlib.sha256(" ".join(marks).encode()).hexdigest()[:8]
    if str(answer["seal"]).strip().lower() == seal:
        return None
    return f"the seal {str(answer['seal'])[:20]!r} belongs to another prediction than this one"


CENTRE = "Which values share a mean, and which variance divides?"
EPS = "Where does eps stand, and is the eps that is given the one that is used?"
KEEP = "Which line writes into a tensor that came in from outside?"
GRAPH = "Does everything that depends on the input stay in the graph?"
AXIS = "One number for each place along the last axis: what happens if all sizes are equal?"
OWN = "Are the relative change and your norm both right? Each has tests of its own."
CELL = "Is the row wrong, or the norm in it, or the tolerance?"

CHECKS = {
    "layer-norm": {
        "tall": Check(3, reference("layer_norm", o.TALL, o.GAMMA3, o.BETA3), **COARSE, hint=CENTRE),
        "deep": Check(
            2, reference("layer_norm", o.DEEP, o.GAMMA4, o.BETA4, eps=0.01), **FINE, hint=CENTRE
        ),
        "quiet": Check(2, quiet, **FINE, hint=EPS),
        "square": Check(
            1,
            lambda: layer_norm(o.wide(o.SQUARE).T, o.wide(o.GAMMA4), o.wide(o.BETA4)),
            **FINE,
            hint=AXIS,
        ),
        "far": Check(
            1,
            reference("layer_norm", o.FAR),
            rtol=0.03,
            atol=0.03,
            dtype="float32",
            hint="How many digits are left when two large numbers are subtracted?",
        ),
        "constant": Check(
            1,
            reference("layer_norm", o.CONSTANT, o.GAMMA3, o.BETA3),
            **FINE,
            hint="What is the variance of a constant example, and what is divided by?",
        ),
        "parts": Check(1, parts, **FINE, hint="May one of gamma and beta be None?"),
        "untouched": Check(1, unmoved(o.TALL, o.GAMMA3, o.BETA3), **FINE, hint=KEEP),
        "gradient": Check(
            2,
            gradients("layer_norm", (o.TALL, o.GAMMA3, o.BETA3), o.TOP3),
            **FINE,
            hint=GRAPH,
        ),
    },
    "weight-norm": {
        "rows": Check(
            2,
            reference("weight_norm", o.LENGTHS4, o.ROWS),
            **COARSE,
            hint="One length for each row: the length of which numbers?",
        ),
        "square_rows": Check(
            2,
            lambda: weight_norm(o.wide(o.LENGTHS3), o.wide(o.ROWS3).T),
            **FINE,
            hint="Along which axis does g act if the matrix is square?",
        ),
        "tiny_rows": Check(
            1,
            lambda: weight_norm(o.wide(o.LENGTHS4), 1e-30 * o.wide(o.ROWS)),
            **FINE,
            hint="Is there something that is added to the length, or a least length?",
        ),
        "zero_row": Check(
            1,
            reference("weight_norm", o.LENGTHS4, o.HOLED),
            **FINE,
            hint="What is zero divided by zero?",
        ),
        "weight_gradient": Check(
            2, gradients("weight_norm", (o.LENGTHS4, o.ROWS), o.TOP4), **FINE, hint=GRAPH
        ),
        "weight_untouched": Check(1, unmoved(o.LENGTHS4, o.ROWS), **FINE, hint=KEEP),
    },
    "cosine-norm": {
        "cosines": Check(
            2,
            reference("cosine_norm", o.TALL, o.PAIR),
            **COARSE,
            hint="Which two lengths divide, and along which axis is each taken?",
        ),
        "odd_lengths": Check(
            2,
            reference("cosine_norm", o.ODD, o.ODD_W),
            **FINE,
            hint="What does eps do to a length that is far above it?",
        ),
        "below_eps": Check(
            1,
            reference("cosine_norm", o.FAINT, o.FAINT_W),
            **FINE,
            hint="Each of the two lengths is compared with eps by itself.",
        ),
        "large_eps": Check(
            1, reference("cosine_norm", o.HALF, o.HALF_W, eps=0.5), **FINE, hint=EPS
        ),
        "zero_vectors": Check(
            1,
            reference("cosine_norm", o.EMPTY, o.EMPTY_W),
            **FINE,
            hint="What is divided by when a vector has no length?",
        ),
        "cosine_gradient": Check(
            2, gradients("cosine_norm", (o.TALL, o.PAIR), o.TOP2), **FINE, hint=GRAPH
        ),
        "cosine_untouched": Check(1, unmoved(o.TALL, o.PAIR), **FINE, hint=KEEP),
    },
    "prediction": {
        "complete": Check(3, passes=complete, hint="Any answer counts, an empty cell does not."),
        "sealed": Check(
            1, passes=sealed, hint="Which seal does the self-check print for this prediction?"
        ),
    },
    "change": {
        "linear": Check(
            1,
            linear,
            rtol=1e-5,
            atol=1e-14,
            hint="The length of all entries of the difference, as a share of which length?",
        ),
        **{
            f"{name}_numbers": Check(1, numbers(name), rtol=1e-9, atol=1e-9, hint=OWN)
            for name in o.SEALED_LAYERS
        },
    },
    "matrix": {
        "every_draw": Check(1, [0, 0, 1], hint="What does one draw say about all?"),
        "tolerances": Check(1, [0, 1, 1, 0], hint="Which tolerance is used, and for what?"),
        "not_a_number": Check(1, 0, hint="What does Python answer to NaN < 1 and to NaN >= 1?"),
        "other_layers": Check(
            1, row("linear", "sign", "difference"), hint="Which layers and changes are asked for?"
        ),
        **{f"{name}_row": Check(1, row(name), hint=CELL) for name in o.SEALED_LAYERS},
    },
    "bias": {
        "bias_output": Check(
            1, bias_output, **FINE, hint="What comes first, the bias or the norm? Which bias?"
        ),
        "bias_of_batch": Check(
            1, bias_row(o.over_examples), rtol=1e-9, atol=1e-9, hint="Does the bias stay?"
        ),
        "bias_of_layer": Check(1, bias_row(exact_layer_norm), rtol=1e-9, atol=1e-9, hint=OWN),
    },
    "gradient": {
        "linear_gradient": Check(
            2, linear_gradient, rtol=1e-9, atol=0, hint="The gradient of which loss, in what?"
        ),
        "left_alone": Check(
            1, left_alone, rtol=1e-9, atol=0, hint="Where does backward() put what it finds?"
        ),
        "batch_gradient": Check(1, lambda: at_scales("batch"), rtol=1e-8, atol=0, hint=OWN),
        "layer_gradient": Check(1, lambda: at_scales("layer"), rtol=1e-8, atol=0, hint=OWN),
        "weight_length": Check(1, lambda: at_scales("weight"), rtol=1e-8, atol=0, hint=OWN),
        "cosine_length": Check(1, lambda: at_scales("cosine"), rtol=1e-8, atol=0, hint=OWN),
        "slopes": Check(
            2, slopes, rtol=1e-8, atol=1e-9, hint="The logarithm of both? And least squares?"
        ),
    },
}
