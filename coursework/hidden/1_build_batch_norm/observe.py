"""What is asked of "Build batch norm": the student's functions on literal numbers, never a verdict."""

import inspect
import itertools
from pathlib import Path

import torch

from grader.ask import asks, switched_off

SWITCHED_OFF = ["normlab.layers.batch._check"]  # the course's own batch norm begins with it
READY_LAYERS = ["torch.nn.modules.batchnorm._NormBase.__init__"]
READY_LAYERS += ["normlab.layers.batch._BatchNorm.__init__"]
AUTOGRAD = ["torch.autograd.grad", "torch.autograd.backward", "torch.Tensor.backward"]
AUTOGRAD += ["torch.autograd.forward_ad.make_dual"]

TALL = [  # five examples, three features
    [0.3, -1.2, 2.0],
    [1.7, 0.4, -0.6],
    [-0.9, 3.1, 0.8],
    [2.4, -2.2, 1.1],
    [0.5, 0.9, -3.7],
]
MORE = [[1.0, 4.0, -2.0], [3.5, -1.0, 0.5], [-2.0, 2.5, 6.0]]  # three examples
PAIR = [[1.0, -4.0, 0.25], [3.0, 7.0, 0.75]]  # two examples
WIDE = [  # whole numbers with whole means: exact in float32, and far from zero
    [9996.0, 10007.0, -10004.0],
    [10003.0, 10001.0, -10001.0],
    [10001.0, 9993.0, -9997.0],
    [9999.0, 9998.0, -9996.0],
    [10006.0, 10006.0, -10002.0],
]
FLAT = [[7.0, 0.5], [7.0, -1.5], [7.0, 2.5]]  # the first feature is constant
IMAGES = [  # (3, 2, 2, 4)
    [[[0.1, 1.4, -2.3, 0.8], [1.9, -0.7, 0.2, 3.3]], [[5.0, 4.1, 6.2, 5.5], [3.9, 7.0, 4.4, 5.1]]],
    [[[-1.1, 0.6, 2.2, -0.4], [0.9, 1.3, -3.0, 0.5]], [[2.0, 4.8, 5.7, 1.6], [6.6, 3.2, 0.9, 4.0]]],
    [[[2.7, -0.2, 0.3, 1.0], [-1.8, 0.7, 4.1, -0.6]], [[9.1, 5.3, 4.9, 6.8], [5.9, 8.0, 7.3, 4.6]]],
]
GAMMA, BETA = [1.5, -0.8, 0.4], [0.2, 3.0, -1.0]  # for three features
GAMMA2, BETA2 = [-0.7, 2.0], [0.6, -0.3]  # for two
DY = [  # the gradient that arrives at the output of TALL
    [0.7, -1.0, 0.2],
    [0.1, 2.1, -0.9],
    [-1.3, 0.5, 1.6],
    [2.0, 0.3, -0.4],
    [0.4, -0.6, 0.8],
]
RUN_MEAN, RUN_VAR = [0.5, -1.0, 2.0], [1.5, 0.25, 4.0]
RUN_MEAN2, RUN_VAR2 = [0.25, 5.0], [2.0, 3.0]
LINEAR = [[0.5, -1.0, 2.0, 0.1], [1.2, 0.3, -0.7, 0.9], [-0.4, 0.8, 0.6, -1.5]]  # (3, 4)
LINEAR_BIAS = [0.3, -0.6, 1.1]
ROWS = [[1.0, 2.0, -1.0, 0.5], [0.0, -3.0, 4.0, 1.5]]  # what the linear layer is fed: (2, 4)
ONCE = [0.6, -1.1, 0.3, 0.9, -0.2]  # weighs the examples where a loss is needed
LETTERS = "ABCDEFGHI"
SKELETON, METHODS = ("__init__", "forward"), ("statistics", "normalize", "update")


def single(values) -> torch.Tensor:
    """Return fresh numbers in float32."""
    return torch.tensor(values, dtype=torch.float32)


def double(values) -> torch.Tensor:
    """Return fresh numbers in float64."""
    return torch.tensor(values, dtype=torch.float64)


def leaf(values) -> torch.Tensor:
    """Return fresh numbers in float64 that collect a gradient."""
    return double(values).requires_grad_()


def sequences() -> torch.Tensor:
    """Return IMAGES as sequences, (3, 2, 8)."""
    return double(IMAGES).flatten(2)


def grad(tensor: torch.Tensor) -> torch.Tensor:
    """Return the gradient that has arrived, or zeros where none has."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


# ------------------------------------------------------------------------------------- forward


@asks("forward")
def table(student):
    """five examples of three features, float32"""
    return student["batch_norm"](single(TALL), single(GAMMA), single(BETA))


@asks("forward")
def table_double(student):
    """the same in float64, to ten digits"""
    return student["batch_norm"](double(TALL), double(GAMMA), double(BETA))


@asks("forward")
def images(student):
    """three images with two channels of 2 by 4 pixels, eps = 0"""
    return student["batch_norm"](double(IMAGES), double(GAMMA2), double(BETA2), eps=0.0)


@asks("forward")
def sequence(student):
    """three sequences with two channels of length 8, eps = 0"""
    return student["batch_norm"](sequences(), double(GAMMA2), double(BETA2), eps=0.0)


@asks("forward")
def two_examples(student):
    """a batch of two examples, eps = 0"""
    return student["batch_norm"](double(PAIR), double(GAMMA), double(BETA), eps=0.0)


@asks("forward")
def small_spread(student):
    """features whose variance is about as small as eps"""
    return student["batch_norm"](double(TALL) * 0.002, double(GAMMA), double(BETA))


@asks("forward")
def large_eps(student):
    """eps = 0.5"""
    return student["batch_norm"](double(TALL), double(GAMMA), double(BETA), eps=0.5)


@asks("forward")
def constant_feature(student):
    """a feature that never changes, next to one that does"""
    return student["batch_norm"](single(FLAT), single(GAMMA2), single(BETA2))


@asks("forward")
def far_from_zero(student):
    """features near 10,000 with a spread of a few units, float32"""
    return student["batch_norm"](single(WIDE), single(GAMMA), single(BETA))


@asks("forward")
def strided(student):
    """an input whose memory is not contiguous"""
    x = single(TALL).t().contiguous().t()
    return student["batch_norm"](x, single(GAMMA), single(BETA))


@asks("forward")
def inputs_kept(student):
    """the inputs as they are after a call that answers"""
    x, gamma, beta = double(TALL), double(GAMMA), double(BETA)
    answer = student["batch_norm"](x, gamma, beta).clone()
    return [answer, x, gamma, beta]


@asks("forward")
def gradient(student):
    """the gradient that autograd sends back through your forward pass, eps = 0"""
    x, gamma, beta = leaf(TALL), leaf(GAMMA), leaf(BETA)
    student["batch_norm"](x, gamma, beta, eps=0.0).backward(double(DY))
    return [grad(x), grad(gamma), grad(beta)]


# ------------------------------------------------------------------------------------ backward


def backward(student, dy, x, gamma, **settings):
    """Return what the student's backward pass returns, with autograd switched off."""
    with torch.inference_mode(), switched_off(AUTOGRAD):
        return list(
            student["batch_norm_backward"](dy.clone(), x.clone(), gamma.clone(), **settings)
        )


@asks("backward")
def table_dx(student):
    """dx for five examples of three features"""
    return backward(student, double(DY), double(TALL), double(GAMMA), eps=0.0)[0]


@asks("backward")
def table_parameters(student):
    """dgamma and dbeta for the same batch"""
    return backward(student, double(DY), double(TALL), double(GAMMA), eps=0.0)[1:]


@asks("backward")
def images_dx(student):
    """dx for images"""
    return backward(student, double(IMAGES).flip(0).cos(), double(IMAGES), double(GAMMA2), eps=0.0)[
        0
    ]


@asks("backward")
def images_parameters(student):
    """dgamma and dbeta for images"""
    return backward(student, double(IMAGES).flip(0).cos(), double(IMAGES), double(GAMMA2), eps=0.0)[
        1:
    ]


@asks("backward")
def two_examples_dx(student):
    """dx for a batch of two examples"""
    return backward(student, double(DY[:2]), double(PAIR), double(GAMMA), eps=0.1)[0]


@asks("backward")
def small_spread_dx(student):
    """dx for features whose variance is about as small as eps"""
    return backward(student, double(DY), double(TALL) * 0.002, double(GAMMA))[0]


@asks("backward")
def constant_feature_dx(student):
    """dx where one feature is constant"""
    return backward(student, single(DY[:3])[:, :2], single(FLAT), single(GAMMA2))[0]


@asks("backward")
def far_from_zero_dx(student):
    """dx for features near 10,000, float32"""
    return backward(student, single(DY), single(WIDE), single(GAMMA))[0]


@asks("backward")
def all_single(student):
    """all three gradients in float32, dy not contiguous"""
    dy = single(DY).t().contiguous().t()
    return backward(student, dy, single(TALL), single(GAMMA))


@asks("backward")
def backward_inputs_kept(student):
    """the inputs of the backward pass as they are after a call that answers"""
    dy, x, gamma = double(DY), double(TALL), double(GAMMA)
    with switched_off(AUTOGRAD):
        answer = student["batch_norm_backward"](dy, x, gamma)[0].clone()
    return [answer, dy, x, gamma]


# -------------------------------------------------------------------------- running statistics


def updated(student, x, *settings, mean=RUN_MEAN, var=RUN_VAR):
    """Return the running statistics after one batch."""
    mean, var = double(mean).to(x.dtype), double(var).to(x.dtype)
    return list(student["running_update"](mean, var, x, *settings))


@asks("running-statistics")
def update_table(student):
    """one update with a table, momentum 0.1"""
    return updated(student, double(TALL))


@asks("running-statistics")
def update_momentum(student):
    """one update with momentum 0.7"""
    return updated(student, double(TALL), 0.7)


@asks("running-statistics")
def update_images(student):
    """one update with images"""
    return updated(student, double(IMAGES), 0.3, mean=RUN_MEAN2, var=RUN_VAR2)


@asks("running-statistics")
def update_pair(student):
    """one update with two examples"""
    return updated(student, double(PAIR), 0.3)


@asks("running-statistics")
def update_far_from_zero(student):
    """one update with features near 10,000, float32"""
    return updated(student, single(WIDE), 0.7)


@asks("running-statistics")
def update_three_batches(student):
    """three updates with batches of 5, 3 and 2 examples"""
    running = double(RUN_MEAN), double(RUN_VAR)
    for batch in (TALL, MORE, PAIR):
        running = student["running_update"](*running, double(batch), 0.3)
    return list(running)


@asks("running-statistics")
def update_keeps_arguments(student):
    """the arguments as they are after a call that moves something"""
    mean, var, x = double(RUN_MEAN), double(RUN_VAR), double(TALL)
    answer = student["running_update"](mean, var, x, 0.5)[0].clone()
    return [answer, mean, var, x]


@asks("running-statistics")
def update_no_graph(student):
    """the gradient that a loss of the new statistics would send into the batch"""
    x = leaf(TALL)
    new = student["running_update"](double(RUN_MEAN), double(RUN_VAR), x, 0.5)
    (sum(part.sum() for part in new) + 0 * x.sum()).backward()
    return [new[0], grad(x)]


# --------------------------------------------------------------------------------- train, eval


def layer(student, features=3, **settings):
    """Return a double precision layer of the student with weights and running statistics set."""
    gamma, beta, mean, var = (
        (GAMMA, BETA, RUN_MEAN, RUN_VAR) if features == 3 else (GAMMA2, BETA2, RUN_MEAN2, RUN_VAR2)
    )
    norm = student["BatchNorm"](features, **settings).double()
    values = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}
    norm.load_state_dict({name: double(value) for name, value in values.items()}, strict=False)
    return norm


def buffers(norm):
    """Return copies of the running statistics."""
    return [norm.running_mean.clone(), norm.running_var.clone()]


@asks("train-eval")
def fresh_state(student):
    """the state of a new layer, and the names of what is learned"""
    with switched_off(READY_LAYERS):
        norm = student["BatchNorm"](3)
    learned = sorted(name for name, _ in norm.named_parameters())
    return {"state": dict(norm.state_dict()), "learned": learned}


@asks("train-eval")
def training_output(student):
    """outputs in training: a table, images with eps = 0.5, and one image alone"""
    return [
        layer(student)(double(TALL)),
        layer(student, 2, eps=0.5)(double(IMAGES)),
        layer(student, 2)(double(IMAGES[:1])),
    ]


@asks("train-eval")
def training_buffers(student):
    """running statistics after batches of 5, 3 and 2 examples"""
    norm = layer(student)
    for batch in (TALL, MORE, PAIR):
        norm(double(batch))
    return buffers(norm)


@asks("train-eval")
def image_buffers(student):
    """running statistics after one batch of images, momentum 0.3"""
    norm = layer(student, 2, momentum=0.3)
    norm(double(IMAGES))
    return buffers(norm)


@asks("train-eval")
def momentum_none(student):
    """momentum=None: batches of 5, 3 and 2 examples, the last by a copy made from state_dict"""
    norm, copy = layer(student, momentum=None), layer(student, momentum=None)
    for batch in (TALL, MORE):
        norm(double(batch))
    copy.load_state_dict(norm.state_dict())
    copy(double(PAIR))
    return buffers(copy)


@asks("train-eval")
def evaluation_output(student):
    """outputs in evaluation: a table, images, and sequences"""
    return [
        layer(student).eval()(double(TALL)),
        layer(student, 2).eval()(double(IMAGES)),
        layer(student, 2).eval()(sequences()),
    ]


@asks("train-eval")
def evaluation_again(student):
    """two outputs for the same batch in evaluation, and the buffers afterwards"""
    norm = layer(student).eval()
    first, _ = norm(double(PAIR)), norm(double(TALL))
    return [first, norm(double(PAIR)), buffers(norm)]


@asks("train-eval")
def evaluation_alone(student):
    """one example alone in evaluation"""
    return layer(student).eval()(double(TALL[:1]))


@asks("train-eval")
def back_to_training(student):
    """evaluation, then training again: the output, the buffers and the counter"""
    norm = layer(student)
    norm.eval()(double(MORE))
    return [norm.train()(double(TALL)), *buffers(norm), norm.num_batches_tracked]


@asks("train-eval")
def training_gradient(student):
    """the gradients of two training steps in a row"""
    norm, x = layer(student), leaf(TALL)
    for _ in range(2):
        norm(x).backward(double(DY))
    return [grad(x), grad(norm.weight), grad(norm.bias)]


@asks("train-eval")
def evaluation_gradient(student):
    """the gradients in evaluation"""
    norm, x = layer(student).eval(), leaf(TALL)
    norm(x).backward(double(DY))
    return [grad(x), grad(norm.weight), grad(norm.bias)]


@asks("train-eval")
def earlier_batch(student):
    """the gradient that a loss in evaluation sends into a batch of the training before it"""
    norm, earlier = layer(student, momentum=0.5), leaf(TALL)
    norm(earlier)
    (norm.eval()(double(MORE)).sum() + 0 * earlier.sum()).backward()
    return [norm.running_mean, grad(earlier)]


@asks("train-eval")
def two_layers(student):
    """two layers, of which only the first is used"""
    used, unused = student["BatchNorm"](3), student["BatchNorm"](3)
    output = used(single(TALL))
    return [output, buffers(used), buffers(unused)]


@asks("train-eval")
def one_value(student):
    """what one value per channel is answered with in training, and whether it leaves a trace"""
    norm = layer(student)
    try:
        answer = norm(double(TALL[:1]))
    except Exception as error:
        answer = type(error).__name__
    return [answer, buffers(norm)]


# ------------------------------------------------------------------------------------- folding


def fold_inputs(bias=True, eps=1e-5, dtype=torch.float64):
    """Return a linear layer and torch's batch norm with literal values, in training mode."""
    linear = torch.nn.Linear(4, 3, bias=bias, dtype=dtype)
    norm = torch.nn.BatchNorm1d(3, eps=eps, dtype=dtype)
    state = {"weight": GAMMA, "bias": BETA, "running_mean": RUN_MEAN, "running_var": RUN_VAR}
    with torch.no_grad():
        linear.weight.copy_(double(LINEAR))
        if bias:
            linear.bias.copy_(double(LINEAR_BIAS))
        for name, value in state.items():
            getattr(norm, name).copy_(double(value))
    return linear, norm


@asks("folding")
def folded(student):
    """weight and bias of the folded layer"""
    layer = student["fold"](*fold_inputs())
    return [layer.weight, layer.bias]


@asks("folding")
def folded_output(student):
    """what the folded layer answers to two rows, float32"""
    return student["fold"](*fold_inputs(dtype=torch.float32))(single(ROWS))


@asks("folding")
def folded_without_bias(student):
    """a linear layer that has no bias"""
    layer = student["fold"](*fold_inputs(bias=False))
    return [layer.weight, layer.bias]


@asks("folding")
def folded_large_eps(student):
    """a norm with eps = 0.5"""
    layer = student["fold"](*fold_inputs(eps=0.5))
    return [layer.weight, layer.bias]


@asks("folding")
def fold_keeps_originals(student):
    """both layers, and the norm's mode, as they are after folding"""
    linear, norm = fold_inputs()
    bias = student["fold"](linear, norm).bias.clone()
    kept = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    now = [linear.weight, linear.bias, *(getattr(norm, name) for name in kept)]
    return [bias, *now, int(norm.training)]


@asks("folding")
def folded_is_independent(student):
    """the folded layer after the original layers were overwritten"""
    linear, norm = fold_inputs()
    layer = student["fold"](linear, norm)
    with torch.no_grad():
        for tensor in (*linear.parameters(), *norm.parameters(), norm.running_mean):
            tensor.zero_()
    return layer(double(ROWS))


# ---------------------------------------------------------------------------------- the museum


def named(letter: str, task: str, name: str, text: str, question):
    """Return a question about one exhibit, to be found under ``name``."""

    def ask(student):
        return question(student, letter)

    ask.__name__, ask.__doc__ = name, text
    return asks(task)(ask)


def diagnosed(student, letter):
    """Return the diagnosis of one exhibit as a text."""
    return str(student["diagnosis"].get(letter)).strip().lower()


def tour(student, letter):
    """Return what a mended exhibit does on every experiment of the museum."""
    kind = student[f"Mended{letter}"]
    seen = origin(kind)
    seen |= outputs(kind) | history(kind)
    x, earlier = leaf(TALL), leaf(MORE)
    norm = kind(3).double()
    norm(earlier)
    norm(x).backward(double(DY))
    (norm.eval()(double(PAIR)).sum() + 0 * earlier.sum()).backward()
    return seen | {"gradient": grad(x), "gradient of an earlier batch": grad(earlier)}


def origin(kind):
    """Return a class's exhibits: descent, borrowed from, skeleton's file, and methods replaced."""
    names = [base.__name__ for base in kind.__mro__ if base.__name__.startswith("Exhibit")]
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in SKELETON + METHODS}
    owners = {getattr(methods[name], "__qualname__", "").partition(".")[0] for name in METHODS}
    own = itertools.takewhile(lambda base: base.__name__ not in names, kind.__mro__)
    replaced = {name for base in own for name in METHODS if name in vars(base)}
    return {
        "mends": names,
        "replaces": sorted(replaced),
        "borrows": sorted(n for n in owners if n.startswith("Exhibit") and n not in names),
        "skeleton": [Path(methods[name].__code__.co_filename).name for name in SKELETON],
    }


def outputs(kind):
    """Return outputs in training for tables and images."""
    return {
        "table": kind(3).double()(double(TALL)),
        "two examples": kind(3).double()(double(PAIR)),
        "small spread": kind(3).double()(double(TALL) * 0.002),
        "far from zero": kind(3)(single(WIDE)),
        "images": kind(2).double()(double(IMAGES)),
    }


def history(kind):
    """Return running statistics after training and evaluation, and answers in evaluation."""
    norm = kind(2, eps=0.1, momentum=0.3).double()
    for batch in (double(IMAGES), double(IMAGES)[:2], double(FLAT)):
        norm(batch)
    trained = [norm.running_mean.clone(), norm.running_var.clone()]
    answer = norm.eval()(double(IMAGES))
    again = norm(double(IMAGES))
    return {
        "running statistics": trained,
        "evaluation": answer,
        "evaluation again": again,
        "running statistics after evaluation": [norm.running_mean, norm.running_var],
    }


for _letter in LETTERS:
    for _task, _question, _text in (
        ("diagnosis", diagnosed, f"the diagnosis of exhibit {_letter}"),
        ("mending", tour, f"exhibit {_letter}, mended, on every experiment of the museum"),
    ):
        _name = f"{_task}_{_letter}"
        globals()[_name] = named(_letter, _task, _name, _text, _question)
