"""What a sound batch norm answers to the questions of ``observe.py``: float64, NumPy only."""

import numpy as np

from grader.judge import Check, differs, observed_inputs

o = observed_inputs(__file__)
TALL, MORE, PAIR, WIDE, FLAT, IMAGES, DY, ROWS = (
    np.array(values, dtype=np.float64)
    for values in (o.TALL, o.MORE, o.PAIR, o.WIDE, o.FLAT, o.IMAGES, o.DY, o.ROWS)
)
THREE = {"gamma": o.GAMMA, "beta": o.BETA}
TWO = {"gamma": o.GAMMA2, "beta": o.BETA2}
GAMMA3, GAMMA2, BETA2 = np.array(o.GAMMA), np.array(o.GAMMA2), np.array(o.BETA2)
RUN3 = np.array(o.RUN_MEAN), np.array(o.RUN_VAR)
RUN2 = np.array(o.RUN_MEAN2), np.array(o.RUN_VAR2)


def column(values, x):
    """Return (C,) values in a shape that broadcasts against ``x``."""
    return np.reshape(np.asarray(values, np.float64), (1, -1) + (1,) * (x.ndim - 2))


def axes(x):
    """Return the axes over which statistics are taken."""
    return (0, *range(2, x.ndim))


def moments(x):
    """Return mean and biased variance of every channel, (C,)."""
    return x.mean(axes(x)), x.var(axes(x))


def normalized(x, mean, var, gamma=1.0, beta=0.0, eps=1e-5):
    """Return y for given statistics."""
    x_hat = (x - column(mean, x)) / np.sqrt(column(var, x) + eps)
    return column(gamma, x) * x_hat + column(beta, x)


def forward(x, gamma=1.0, beta=0.0, eps=1e-5):
    """Return y for the statistics of the batch."""
    return normalized(x, *moments(x), gamma, beta, eps)


def backward(dy, x, gamma=1.0, eps=1e-5):
    """Return dx, dgamma, dbeta; equation (eq-backward) of lesson 3."""
    x_hat, g = forward(x, eps=eps), column(gamma, x) * dy
    root = np.sqrt(column(moments(x)[1], x) + eps)
    means = (column(part.mean(axes(x)), x) for part in (g, g * x_hat))
    mean_g, mean_gx = means
    dx = (g - mean_g - x_hat * mean_gx) / root
    return [dx, (dy * x_hat).sum(axes(x)), dy.sum(axes(x))]


def unbiased(x):
    """Return the unbiased variance of every channel."""
    m = x.size // x.shape[1]
    return moments(x)[1] * m / (m - 1)


def running(start, batches, momentum=0.1):
    """Return mean and variance after some batches; ``momentum=None`` is the plain average."""
    mean, var = (np.array(part, dtype=np.float64) for part in start)
    for count, x in enumerate(batches, 1):
        a = 1 / count if momentum is None else momentum
        mean, var = (1 - a) * mean + a * moments(x)[0], (1 - a) * var + a * unbiased(x)
    return [mean, var]


NEW = (np.zeros(3), np.ones(3))  # the running statistics of a new layer
THREE_BATCHES = (TALL, MORE, PAIR)
FLIPPED = np.cos(IMAGES[::-1])  # the gradient at the output of IMAGES
EXACT = {"rtol": 1e-10, "atol": 1e-10, "dtype": "float64"}
SINGLE = {"rtol": 2e-5, "atol": 2e-5, "dtype": "float32"}
ROUGH = {"rtol": 5e-3, "atol": 5e-3}  # float32 near 10,000: one step is 0.001


def kept(answer, *inputs):
    """Return a test of [answer, *inputs]: inputs to the last digit, the answer roughly.

    Whoever does nothing changes nothing; so the answer counts, and a fault that other checks see
    does not cost twice.
    """

    def wrong(seen):
        exact, rough = Check(0, rtol=1e-10, atol=1e-10), Check(0, rtol=0.3, atol=0.3)
        if not isinstance(seen, list) or len(seen) != 1 + len(inputs):
            return f"expected {1 + len(inputs)} values, got something else"
        return differs(seen[1:], inputs, exact) or differs(seen[0], answer, rough, " in the answer")

    return wrong


FORWARD = {
    "table": Check(1, forward(TALL, **THREE), **SINGLE, hint="Which axis counts examples?"),
    "table_double": Check(
        1, forward(TALL, **THREE), **EXACT, hint="Does every step keep the dtype of the input?"
    ),
    "images": Check(
        2,
        forward(IMAGES, eps=0, **TWO),
        **EXACT,
        hint="How many means does a batch of images have?",
    ),
    "sequence": Check(
        1,
        forward(IMAGES.reshape(3, 2, 8), eps=0, **TWO),
        **EXACT,
        hint="Does your code count on two or four axes?",
    ),
    "two_examples": Check(
        1, forward(PAIR, eps=0, **THREE), **EXACT, hint="Which of two variances divides?"
    ),
    "small_spread": Check(
        1, forward(TALL * 0.002, **THREE), **EXACT, hint="Where exactly does eps stand?"
    ),
    "large_eps": Check(1, forward(TALL, eps=0.5, **THREE), **EXACT, hint="Is eps used?"),
    "constant_feature": Check(
        1,
        forward(FLAT, **TWO),
        rtol=2e-3,
        atol=2e-3,
        dtype="float32",
        hint="What is divided by what if the variance is 0?",
    ),
    "far_from_zero": Check(
        1,
        forward(WIDE, **THREE),
        **ROUGH,
        dtype="float32",
        hint="How many digits has float32, and how many does your variance need on the way?",
    ),
    "strided": Check(
        1, forward(TALL, **THREE), **SINGLE, hint="view needs contiguous memory; what does not?"
    ),
    "inputs_kept": Check(
        1,
        passes=kept(forward(TALL, **THREE), TALL, GAMMA3, np.array(o.BETA)),
        hint="Which operation works in place?",
    ),
    "gradient": Check(
        2,
        backward(DY, TALL, o.GAMMA, eps=0),
        **EXACT,
        hint="By how many roads does the gradient reach x? Is one of them closed?",
    ),
}

SMALL = TALL * 0.002
BACKWARD = {
    "table_dx": Check(
        2,
        backward(DY, TALL, o.GAMMA, eps=0)[0],
        **EXACT,
        hint="Do the entries of each column sum to 0?",
    ),
    "table_parameters": Check(
        2,
        backward(DY, TALL, o.GAMMA, eps=0)[1:],
        **EXACT,
        hint="Over which examples does gamma act, and what does it multiply?",
    ),
    "images_dx": Check(
        2,
        backward(FLIPPED, IMAGES, o.GAMMA2, eps=0)[0],
        **EXACT,
        hint="How many values share a mean?",
    ),
    "images_parameters": Check(
        1,
        backward(FLIPPED, IMAGES, o.GAMMA2, eps=0)[1:],
        **EXACT,
        hint="What is the shape of gamma?",
    ),
    "two_examples_dx": Check(
        2,
        backward(DY[:2], PAIR, o.GAMMA, eps=0.1)[0],
        **EXACT,
        hint="Is m the number of examples or one less? Is eps used?",
    ),
    "small_spread_dx": Check(
        1,
        backward(DY, SMALL, o.GAMMA)[0],
        rtol=1e-9,
        atol=1e-9,
        dtype="float64",
        hint="Does the backward pass use the same root as the forward pass?",
    ),
    "constant_feature_dx": Check(
        1,
        backward(DY[:3, :2], FLAT, o.GAMMA2)[0],
        rtol=1e-4,
        atol=1e-3,
        dtype="float32",
        hint="What is divided by what if the variance is 0?",
    ),
    "far_from_zero_dx": Check(
        1,
        backward(DY, WIDE, o.GAMMA)[0],
        **ROUGH,
        dtype="float32",
        hint="How many digits does your variance need on the way?",
    ),
    "all_single": Check(
        1, backward(DY, TALL, o.GAMMA), **SINGLE, hint="Does every step keep the dtype?"
    ),
    "backward_inputs_kept": Check(
        1,
        passes=kept(backward(DY, TALL, o.GAMMA)[0], DY, TALL, GAMMA3),
        hint="Which operation works in place?",
    ),
}

HALF_WAY = running(RUN3, [TALL], 0.5)[0]
RUNNING = {
    "update_table": Check(
        1, running(RUN3, [TALL]), **EXACT, hint="Which weight has the new value? Which variance?"
    ),
    "update_momentum": Check(
        1, running(RUN3, [TALL], 0.7), **EXACT, hint="Which of the two values gets the weight 0.7?"
    ),
    "update_images": Check(
        1, running(RUN2, [IMAGES], 0.3), **EXACT, hint="What is m for images, and what is m - 1?"
    ),
    "update_pair": Check(
        1, running(RUN3, [PAIR], 0.3), **EXACT, hint="Which of two variances is stored?"
    ),
    "update_far_from_zero": Check(
        1,
        running(RUN3, [WIDE], 0.7),
        rtol=5e-3,
        atol=5e-3,
        dtype="float32",
        hint="How many digits does your variance need on the way?",
    ),
    "update_three_batches": Check(
        1, running(RUN3, THREE_BATCHES, 0.3), **EXACT, hint="Does m follow the batch?"
    ),
    "update_keeps_arguments": Check(
        1, passes=kept(HALF_WAY, *RUN3, TALL), hint="Does the function return new tensors?"
    ),
    "update_no_graph": Check(
        1, passes=kept(HALF_WAY, 0 * TALL), hint="What do the new statistics remember of the batch?"
    ),
}


def evaluated(x, start, gamma, beta, eps=1e-5):
    """Return y in evaluation."""
    return normalized(x, *start, gamma, beta, eps)


def evaluation_gradient():
    """Return dx, dgamma, dbeta where the statistics are constants."""
    root = np.sqrt(column(o.RUN_VAR, TALL) + 1e-5)
    x_hat = (TALL - column(o.RUN_MEAN, TALL)) / root
    return [column(o.GAMMA, TALL) * DY / root, (DY * x_hat).sum(0), DY.sum(0)]


FRESH = {"weight": np.ones(3), "bias": np.zeros(3), "num_batches_tracked": 0}
FRESH |= {"running_mean": NEW[0], "running_var": NEW[1]}
PAIR_EVALUATED = evaluated(PAIR, RUN3, **THREE)

TRAIN_EVAL = {
    "fresh_state": Check(
        1,
        {"state": FRESH, "learned": ["bias", "weight"]},
        hint="Compare the keys of state_dict() with those of torch's layer.",
    ),
    "training_output": Check(
        1,
        [forward(TALL, **THREE), forward(IMAGES, eps=0.5, **TWO), forward(IMAGES[:1], **TWO)],
        **EXACT,
        hint="Does the layer use its weight, its bias and its eps?",
    ),
    "training_buffers": Check(
        1, running(RUN3, THREE_BATCHES), rtol=1e-10, atol=1e-10, hint="What moves, and by how much?"
    ),
    "image_buffers": Check(
        1, running(RUN2, [IMAGES], 0.3), rtol=1e-10, atol=1e-10, hint="What is m for images?"
    ),
    "momentum_none": Check(
        1,
        running(RUN3, THREE_BATCHES, None),
        rtol=1e-6,  # 1 / num_batches_tracked may well be a number in float32
        atol=1e-6,
        hint="Which step makes the running value the plain average of all batches so far?",
    ),
    "evaluation_output": Check(
        1,
        [
            evaluated(TALL, RUN3, **THREE),
            evaluated(IMAGES, RUN2, **TWO),
            evaluated(IMAGES.reshape(3, 2, 8), RUN2, **TWO),
        ],
        **EXACT,
        hint="Whose mean and variance are used in evaluation?",
    ),
    "evaluation_again": Check(
        1,
        [PAIR_EVALUATED, PAIR_EVALUATED, RUN3],
        rtol=1e-10,
        atol=1e-10,
        hint="What may a forward pass in evaluation change?",
    ),
    "evaluation_alone": Check(
        1, evaluated(TALL[:1], RUN3, **THREE), **EXACT, hint="Does evaluation need a batch?"
    ),
    "back_to_training": Check(
        1,
        [forward(TALL, **THREE), *running(RUN3, [TALL]), 1],
        rtol=1e-10,
        atol=1e-10,
        hint="Does every call ask for the mode anew?",
    ),
    "training_gradient": Check(
        1,
        [2 * part for part in backward(DY, TALL, o.GAMMA)],
        **EXACT,
        hint="Do the statistics of the batch carry gradient, and the buffers none?",
    ),
    "evaluation_gradient": Check(
        1, evaluation_gradient, **EXACT, hint="Which quantities are constants in evaluation?"
    ),
    "earlier_batch": Check(
        1,
        passes=kept(HALF_WAY, 0 * TALL),
        hint="What do the buffers remember besides their numbers?",
    ),
    "two_layers": Check(
        1,
        [forward(TALL), running(NEW, [TALL]), NEW],
        rtol=2e-5,
        atol=2e-5,
        hint="Where are the buffers made?",
    ),
    "one_value": Check(
        1,
        ["ValueError", RUN3],
        rtol=1e-10,
        atol=1e-10,
        hint="What does torch's layer do, and in which order?",
    ),
}


def fold(bias=True, eps=1e-5):
    """Return weight and bias of the folded layer."""
    scale = np.array(o.GAMMA) / np.sqrt(np.array(o.RUN_VAR) + eps)
    start = np.array(o.LINEAR_BIAS) if bias else np.zeros(3)
    return [
        scale[:, None] * np.array(o.LINEAR),
        scale * (start - np.array(o.RUN_MEAN)) + np.array(o.BETA),
    ]


ANSWER = ROWS @ fold()[0].T + fold()[1]
FOLDING = {
    "folded": Check(2, fold(), **EXACT, hint="Write the norm in evaluation as a y = s z + t."),
    "folded_output": Check(
        1, ANSWER, **SINGLE, hint="Does the new layer have the sizes and the dtype of the old one?"
    ),
    "folded_without_bias": Check(
        1, fold(bias=False), **EXACT, hint="What does a missing bias add, and does the norm add?"
    ),
    "folded_large_eps": Check(
        1, fold(eps=0.5), **EXACT, hint="Does the folded layer know the norm's eps?"
    ),
    "fold_keeps_originals": Check(
        2,
        passes=kept(
            fold()[1],
            np.array(o.LINEAR),
            *(np.array(values) for values in (o.LINEAR_BIAS, o.GAMMA, o.BETA)),
            *RUN3,
            *(0, 1),  # batches tracked, and still in training
        ),
        hint="Which layer does your code write into, and does it call the norm?",
    ),
    "folded_is_independent": Check(
        1, ANSWER, **EXACT, hint="Does the folded layer share memory with the old ones?"
    ),
}

CAUSES = {
    "A": "momentum-reversed",
    "B": "pixels-apart",
    "C": "cancellation",
    "D": "statistics-detached",
    "E": "bessel-counts-examples",
    "F": "eps-outside-root",
    "G": "eval-updates",
    "H": "unbiased-divides",
    "I": "graph-in-buffers",
}
DIAGNOSIS = {
    f"diagnosis_{letter}": Check(1, cause, hint="Which row of the three sheets is not torch's?")
    for letter, cause in CAUSES.items()
}

START2 = (np.zeros(2), np.ones(2))
TRAINED = running(START2, [IMAGES, IMAGES[:2], FLAT], 0.3)
EVALUATED = normalized(IMAGES, *TRAINED, eps=0.1)
TOUR = {
    "table": forward(TALL),
    "two examples": forward(PAIR),
    "small spread": forward(SMALL),
    "far from zero": forward(WIDE),
    "images": forward(IMAGES),
    "running statistics": TRAINED,
    "evaluation": EVALUATED,
    "evaluation again": EVALUATED,
    "running statistics after evaluation": TRAINED,
    "gradient": backward(DY, TALL)[0],
    "gradient of an earlier batch": 0 * MORE,
}
OWN = {"borrows": [], "skeleton": ["museum.py", "museum.py"]}
FAULTY = dict.fromkeys("AEGI", [["update"]]) | dict.fromkeys("BC", [["statistics"]])
FAULTY |= {"F": [["normalize"]]} | dict.fromkeys("DH", [["statistics", "update"], ["normalize"]])


def mended(letter):
    """Return a test of the tour of a mended exhibit: healthy, and no sound method replaced."""

    def wrong(seen):
        replaced = seen["replaces"]
        expected = {"mends": [f"Exhibit{letter}", "Exhibit"], "replaces": replaced} | OWN | TOUR
        reason = differs(seen, expected, Check(0, **ROUGH))
        if reason or replaced in FAULTY[letter]:
            return reason
        return f"every number is right, but a sound method was replaced: see {', '.join(replaced)}"

    return wrong


MENDING = {
    f"mending_{letter}": Check(
        2,
        passes=mended(letter),
        hint="Which experiment still differs? Which method makes the numbers that it shows?",
    )
    for letter in CAUSES
}

CHECKS = {
    "forward": FORWARD,
    "backward": BACKWARD,
    "running-statistics": RUNNING,
    "train-eval": TRAIN_EVAL,
    "folding": FOLDING,
    "diagnosis": DIAGNOSIS,
    "mending": MENDING,
}
