"""What is asked of "Predict the matrix". Numbers only; the answers stand in expect.py."""

import numpy as np
import torch

from grader.ask import asks

SWITCHED_OFF = ["torch.nn.functional.normalize", "torch.nn.functional.cosine_similarity"]
SWITCHED_OFF += ["torch.cosine_similarity", "torch._weight_norm"]
SWITCHED_OFF += [f"normlab.layers.{name}" for name in ("normalize", "cosine", "weight_norm")]
SWITCHED_OFF += ["normlab.layers.sample.normalize", "normlab.layers.weights.cosine"]

TALL = [[0.13, -0.13, 0.64], [1.1, -0.54, 0.36], [1.3, 0.95, -0.7], [-1.27, -0.62, 0.04]]
TALL += [[-2.33, -0.22, -1.25]]
SQUARE = [[-0.73, -0.54, -0.32, 0.41], [1.04, -0.13, 1.37, -0.67], [0.35, 0.9, 0.09, -0.74]]
SQUARE += [[-0.92, -0.46, 0.22, -1.01]]
DEEP = [
    [[-0.21, -0.16, 0.54, 0.21], [0.36, -0.65, -0.13, 0.78], [1.49, -1.26, 1.51, 1.35]],
    [[0.78, 0.26, -0.31, 1.46], [1.96, 1.8, 1.32, 0.36], [-1.21, -0.02, 0.66, -1.29]],
]
QUIET = [[0.01, 0.03, -0.02], [0.2, 0.17, 0.25]]
FAR = [[10000.0, 10001.0, 10002.5, 10000.5], [20001.0, 20000.0, 20000.25, 20003.0]]
CONSTANT = [[2.5, 2.5, 2.5], [0.5, -1.0, 2.0]]
GAMMA3, BETA3 = [1.5, -0.7, 0.4], [0.3, -1.1, 0.8]
GAMMA4, BETA4 = [0.6, -1.4, 2.2, 0.9], [-0.2, 0.7, 1.3, -0.5]
TOP3 = [[0.4, -1.0, 0.7], [1.2, 0.3, -0.6], [-0.9, 0.8, 0.5], [0.1, -0.2, 1.4], [-1.3, 0.6, 0.2]]

LENGTHS3, LENGTHS4 = [0.8, -2.5, 1.7], [2.0, -0.5, 1.5, 3.0]
ROWS = [[0.4, 0.43, 0.7], [-1.18, -0.66, -0.44], [-1.17, 1.74, -0.5], [0.33, -0.26, 1.58]]
ROWS3 = [[1.32, 0.63, -2.2], [0.05, 0.68, 1.0], [-0.62, 1.82, -1.32]]
TOP4 = [[0.5, -0.3, 1.1], [0.9, 0.2, -0.8], [-1.4, 0.6, 0.7], [0.2, -1.2, 0.4]]
HOLED = [[0.4, 0.43, 0.7], [0.0, 0.0, 0.0], [-1.17, 1.74, -0.5], [0.33, -0.26, 1.58]]

PAIR = [[0.63, 0.58, -1.29], [-0.38, 1.09, 0.27]]
TOP2 = [[0.7, -0.4], [1.1, 0.5], [-0.2, 0.9], [0.3, -1.2], [-0.8, 0.6]]
ODD = [[3e-5, -1e-5, 2e-5], [4e5, 1e5, -3e5], [2e-6, 5e-6, 1e-6], [0.3, 0.1, -0.2]]
ODD_W = [[5e-6, 2e-6, -4e-6], [0.6, 0.7, 0.1]]
FAINT = [[3e-10, -1e-10, 2e-10], [0.4, 0.1, -0.3]]
FAINT_W = [[2e4, 1e4, -3e4], [4e-9, 5e-9, -1e-9]]
HALF = [[0.2, 0.1, -0.1], [2.0, 1.0, 0.5], [0.3, 0.4, -0.2]]
HALF_W = [[0.63, 0.58, -1.29], [0.1, -0.2, 0.3]]
EMPTY = [[0.0, 0.0, 0.0], [0.4, -0.2, 0.9]]
EMPTY_W = [[0.5, 1.2, -0.7], [0.0, 0.0, 0.0], [1.0, -0.3, 0.8]]

DRAWS = [
    (
        [[0.51, -1.02, 0.33], [1.4, 0.27, -0.8], [-0.66, 0.9, 1.25], [0.12, -0.45, -1.3]],
        [[1.1, 0.2, -0.7], [-0.4, 1.3, 0.6], [0.9, -1.5, 0.8], [0.3, 0.7, 1.9], [-1.2, -0.1, 0.5]],
    ),
    (
        [[-0.9, 0.4, 1.1], [0.7, 1.6, 0.2], [0.35, -1.2, -0.5], [-1.5, 0.15, 0.65]],
        [[0.8, -0.6, 1.2], [1.7, 0.4, -0.3], [-0.5, 1.1, 0.9], [0.2, -1.4, 0.1], [-1, 0.3, -1.6]],
    ),
]
V, C, A = [0.6, -1.1, 0.8], [1.2, 0.5, -0.9], 0.7
BIAS = [0.4, -0.9, 1.3, 0.2]
TOP = [[0.3, -0.8, 1.1, 0.6], [-0.5, 0.9, 0.2, -1.4], [1.2, 0.1, -0.7, 0.4]]
TOP += [[-0.6, 1.5, 0.8, -0.3], [0.7, -1.1, 0.5, 0.9]]
SCALES, UNEVEN = [0.5, 1.0, 3.0, 40.0], [2.0, 3.5, 0.9, 0.7]
SEALED_LAYERS = ("batch", "layer", "weight", "cosine")


def wide(values):
    return torch.tensor(values, dtype=torch.float64)


def narrow(values):
    return torch.tensor(values, dtype=torch.float32)


def pairs():
    return [(wide(W), wide(X)) for W, X in DRAWS]


def changes():
    def times(rows, factor):
        return torch.cat([factor * rows[:1], rows[1:]])

    return {
        "2W": lambda W, X: (2 * W, X),
        "-2W": lambda W, X: (-2 * W, X),
        "3w": lambda W, X: (times(W, 3), X),
        "W+v": lambda W, X: (W + wide(V), X),
        "4X": lambda W, X: (W, 4 * X),
        "5x": lambda W, X: (W, times(X, 5)),
        "X+c": lambda W, X: (W, X + wide(C)),
        "X+a": lambda W, X: (W, X + A),
    }


def product(W, X):
    return X @ W.T


def over_examples(z):
    return (z - z.mean(0)) / z.var(0, correction=0).sqrt()


def layer(student, name):
    """One of the four layers, made of the student's functions."""
    if name == "batch":
        return lambda W, X: over_examples(X @ W.T)
    if name == "layer":
        norm = student["layer_norm"]
        return lambda W, X: norm(X @ W.T, eps=0.0)
    if name == "weight":
        norm = student["weight_norm"]
        return lambda W, X: X @ norm(torch.ones(len(W), dtype=W.dtype), W).T
    norm = student["cosine_norm"]
    return lambda W, X: norm(X, W)


def gradients(function, inputs, top):
    """What arrives at the inputs if ``top`` arrives at the output."""
    inputs = [wide(values).requires_grad_() for values in inputs]
    found = torch.autograd.grad((function(*inputs) * wide(top)).sum(), inputs, allow_unused=True)
    return list(found)


def twice(function, *inputs):
    """The inputs after a call, and whether the second call says what the first said, as numbers."""
    first = function(*inputs).clone()
    return {"inputs": list(inputs), "moved": (function(*inputs) - first).abs().max()}


@asks("layer-norm")
def tall(student):
    """five examples of three places, float32, with gamma and beta"""
    return student["layer_norm"](narrow(TALL), narrow(GAMMA3), narrow(BETA3))


@asks("layer-norm")
def deep(student):
    """an input of three axes, float64, eps 0.01"""
    return student["layer_norm"](wide(DEEP), wide(GAMMA4), wide(BETA4), 0.01)


@asks("layer-norm")
def quiet(student):
    """examples whose variance is about eps"""
    norm = student["layer_norm"]
    return [norm(wide(QUIET), eps=1e-3), norm(0.1 * wide(QUIET))]


@asks("layer-norm")
def square(student):
    """as many examples as places, and not contiguous in memory"""
    return student["layer_norm"](wide(SQUARE).T, wide(GAMMA4), wide(BETA4))


@asks("layer-norm")
def far(student):
    """small differences on top of a large mean, float32"""
    return student["layer_norm"](narrow(FAR))


@asks("layer-norm")
def constant(student):
    """a constant example"""
    return student["layer_norm"](wide(CONSTANT), wide(GAMMA3), wide(BETA3))


@asks("layer-norm")
def parts(student):
    """gamma alone, beta alone, neither; and one example without a batch axis"""
    norm = student["layer_norm"]
    return {
        "gamma": norm(wide(TALL), gamma=wide(GAMMA3)),
        "beta": norm(wide(TALL), beta=wide(BETA3)),
        "neither": norm(wide(TALL)),
        "one": norm(wide(TALL[1]), wide(GAMMA3), wide(BETA3)),
    }


@asks("layer-norm")
def untouched(student):
    """the input, gamma and beta after two calls"""
    return twice(student["layer_norm"], wide(TALL), wide(GAMMA3), wide(BETA3))


@asks("layer-norm")
def gradient(student):
    """the gradients of the input, of gamma and of beta"""
    return gradients(student["layer_norm"], (TALL, GAMMA3, BETA3), TOP3)


@asks("weight-norm")
def rows(student):
    """four rows of three weights, float32, one g negative"""
    return student["weight_norm"](narrow(LENGTHS4), narrow(ROWS))


@asks("weight-norm")
def square_rows(student):
    """as many rows as columns, not contiguous in memory, float64"""
    return student["weight_norm"](wide(LENGTHS3), wide(ROWS3).T)


@asks("weight-norm")
def tiny_rows(student):
    """rows of length 1e-30"""
    return student["weight_norm"](wide(LENGTHS4), 1e-30 * wide(ROWS))


@asks("weight-norm")
def zero_row(student):
    """a row of zeros among others"""
    return student["weight_norm"](wide(LENGTHS4), wide(HOLED))


@asks("weight-norm")
def weight_gradient(student):
    """the gradients of g and of v"""
    return gradients(student["weight_norm"], (LENGTHS4, ROWS), TOP4)


@asks("weight-norm")
def weight_untouched(student):
    """g and v after two calls"""
    return twice(student["weight_norm"], wide(LENGTHS4), wide(ROWS))


@asks("cosine-norm")
def cosines(student):
    """five examples and two units, float32"""
    return student["cosine_norm"](narrow(TALL), narrow(PAIR))


@asks("cosine-norm")
def odd_lengths(student):
    """very short and very long vectors, all above eps"""
    return student["cosine_norm"](wide(ODD), wide(ODD_W))


@asks("cosine-norm")
def below_eps(student):
    """vectors that are shorter than eps"""
    return student["cosine_norm"](wide(FAINT), wide(FAINT_W))


@asks("cosine-norm")
def large_eps(student):
    """eps = 0.5"""
    return student["cosine_norm"](wide(HALF), wide(HALF_W), eps=0.5)


@asks("cosine-norm")
def zero_vectors(student):
    """examples and rows of zeros"""
    return student["cosine_norm"](wide(EMPTY), wide(EMPTY_W))


@asks("cosine-norm")
def cosine_gradient(student):
    """the gradients of the data and of the weights"""
    return gradients(student["cosine_norm"], (TALL, PAIR), TOP2)


@asks("cosine-norm")
def cosine_untouched(student):
    """data and weights after two calls"""
    return twice(student["cosine_norm"], wide(TALL), wide(PAIR))


@asks("prediction")
def complete(student):
    """all 32 cells are filled in, rightly or not"""
    return cells(student["my_prediction"]())


@asks("prediction")
def sealed(student):
    """the seal belongs to the prediction"""
    return {"cells": cells(student["my_prediction"]()), "seal": student["my_seal"]()}


def cells(grid):
    return {name: {title: grid[name].get(title) for title in changes()} for name in SEALED_LAYERS}


@asks("change")
def linear(student):
    """the numbers for a linear layer under five changes"""
    measure, (W, X) = student["relative_change"], pairs()[0]
    asked = [changes()[title] for title in ("3w", "-2W", "X+c")]
    asked += [lambda W, X: (W + 1, 2 * X), lambda W, X: (W * 1e-9 + W, X)]
    return [measure(product, change, W, X) for change in asked]


def row_of_numbers(student, name):
    measure, (W, X) = student["relative_change"], pairs()[0]
    norm = layer(student, name)
    return {title: measure(norm, change, W, X) for title, change in changes().items()}


@asks("change")
def batch_numbers(student):
    """eight numbers for batch norm"""
    return row_of_numbers(student, "batch")


@asks("change")
def layer_numbers(student):
    """eight numbers for your layer norm"""
    return row_of_numbers(student, "layer")


@asks("change")
def weight_numbers(student):
    """eight numbers for your weight norm"""
    return row_of_numbers(student, "weight")


@asks("change")
def cosine_numbers(student):
    """eight numbers for your cosine norm"""
    return row_of_numbers(student, "cosine")


@asks("matrix")
def every_draw(student):
    """a change that is seen in the first, in the last, or in no draw"""
    judge, first = student["is_invariant"], pairs()[0][0]

    def seen_in_first(W, X):
        return ((1 + 1.3e-9) * W if torch.equal(W, first) else W), X

    def seen_in_last(W, X):
        return (W if torch.equal(W, first) else 2 * W), X

    asked = (seen_in_first, seen_in_last, lambda W, X: (W, X))
    return [int(judge(product, change, pairs())) for change in asked]


@asks("matrix")
def tolerances(student):
    """changes of 1e-6 and of 1e-12, with several tolerances"""
    judge = student["is_invariant"]
    asked = [(1e-6, {}), (1e-12, {}), (1e-6, {"tolerance": 1e-3}), (1e-6, {"tolerance": 1e-7})]
    found = []
    for size, more in asked:
        found.append(int(judge(product, lambda W, X, s=size: (W * (1 + s), X), pairs(), **more)))
    return found


@asks("matrix")
def not_a_number(student):
    """a layer that returns NaN"""

    def broken(W, X):
        return X @ W.T + float("nan")

    return int(student["is_invariant"](broken, lambda W, X: (2 * W, X), pairs()))


@asks("matrix")
def other_layers(student):
    """the matrix of three layers that are not in the assignment"""
    layers = {
        "linear": product,
        "sign": lambda W, X: (X @ W.T).sign(),
        "difference": lambda W, X: (X - X[:1]) @ W.T,
    }
    found = student["invariance_matrix"](layers, changes(), pairs())
    return numbered(found)


def numbered(matrix):
    return {name: {title: int(cell) for title, cell in row.items()} for name, row in matrix.items()}


def row(student, name):
    layers = {name: layer(student, name)}
    return numbered(student["invariance_matrix"](layers, changes(), pairs()))


@asks("matrix")
def batch_row(student):
    """the row of batch norm"""
    return row(student, "batch")


@asks("matrix")
def layer_row(student):
    """the row of your layer norm"""
    return row(student, "layer")


@asks("matrix")
def weight_row(student):
    """the row of your weight norm"""
    return row(student, "weight")


@asks("matrix")
def cosine_row(student):
    """the row of your cosine norm"""
    return row(student, "cosine")


@asks("bias")
def bias_output(student):
    """outputs with a bias, for two norms and two biases at once"""
    W, X = pairs()[1]
    build = student["with_bias"]
    built = [build(torch.sin, wide(BIAS)), build(over_examples, wide(BIAS))]
    built += [build(torch.sin, -2 * wide(BIAS))]
    return [norm(W, X) for norm in built] + [built[0](2 * W, X)]


@asks("bias")
def bias_of_batch(student):
    """what eight changes do to batch norm behind a bias"""
    return bias_row(student, over_examples)


@asks("bias")
def bias_of_layer(student):
    """what eight changes do to your layer norm behind a bias"""
    norm = student["layer_norm"]
    return bias_row(student, lambda z: norm(z, eps=0.0))


def bias_row(student, norm):
    W, X = pairs()[0]
    built, found = student["with_bias"](norm, wide(BIAS)), {}
    for title, change in changes().items():
        found[title] = built(*change(W, X)) - built(W, X)
    return found


@asks("gradient")
def linear_gradient(student):
    """the lengths for a linear layer and for a squared one"""
    measure, (W, X) = student["gradient_length"], pairs()[0]
    asked = [product, lambda W, X: product(W, X) ** 2]
    return [measure(norm, W, X, wide(TOP)) for norm in asked]


@asks("gradient")
def left_alone(student):
    """the weights after two calls, with and without a gradient of their own"""
    measure, (W, X) = student["gradient_length"], pairs()[0]
    learned = W.clone().requires_grad_()
    measure(product, W, X, wide(TOP))
    lengths = [measure(product, learned, X, wide(TOP)) for _ in range(2)]
    flags = [int(W.requires_grad), int(learned.requires_grad)]
    return {"lengths": lengths, "flags": flags, "grad": learned.grad, "W": W}


def gradient_at_scales(student, name):
    measure, (W, X) = student["gradient_length"], pairs()[1]
    norm = layer(student, name)
    scaled = [(0.5 * W, X), (W, X), (20 * W, X), (W, 20 * X)]
    return [measure(norm, W, X, wide(TOP)) for W, X in scaled]


@asks("gradient")
def batch_gradient(student):
    """batch norm, at three scales of the weights and one of the data"""
    return gradient_at_scales(student, "batch")


@asks("gradient")
def layer_gradient(student):
    """your layer norm, at three scales of the weights and one of the data"""
    return gradient_at_scales(student, "layer")


@asks("gradient")
def weight_length(student):
    """your weight norm, at three scales of the weights and one of the data"""
    return gradient_at_scales(student, "weight")


@asks("gradient")
def cosine_length(student):
    """your cosine norm, at three scales of the weights and one of the data"""
    return gradient_at_scales(student, "cosine")


@asks("gradient")
def slopes(student):
    """the slopes of a power, of two points, and of points that lie on no line"""
    fit = student["slope"]
    found = [fit(SCALES, [2 * s**-1.5 for s in SCALES]), fit([1.0, 10.0], [5.0, 0.05])]
    return np.array(found + [fit(SCALES, UNEVEN)], dtype=np.float64)
