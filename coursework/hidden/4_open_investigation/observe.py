"""What is asked of "Open investigation": the three functions on stored numbers, and the record."""

import math

from grader.ask import asks

LOWER_RATIO = {
    "better": "lower",
    "compare": "ratio",
    "must": "be at least",
    "margin": 1.5,
    "over": "every seed",
}
KINDS = [("lower", "ratio"), ("lower", "difference"), ("higher", "ratio"), ("higher", "difference")]
# One row for each run: stage, arm, lr, seed, value. Shuffled on purpose; seeds out of order.
STORED = [
    ("test", "baseline", 0.3, 31, 66.0),
    ("tuning", "treatment", 0.3, 7, 12.0),
    ("test", "treatment", 0.1, 12, 24.0),
    ("test", "treatment", 0.1, 4, 50.0),
    ("tuning", "baseline", 0.3, 4, 5.0),
    ("test", "baseline", 0.3, 4, 40.0),
    ("test", "treatment", 0.1, 31, 22.0),
    ("tuning", "treatment", 1.0, 4, None),
    ("test", "baseline", 0.3, 12, 60.0),
]
FAILED = [
    ("test", "treatment", 0.1, 5, None),
    ("test", "treatment", 0.1, 6, 0.9),
    ("test", "treatment", 0.1, 7, None),
    ("test", "treatment", 0.1, 8, 0.6),
    ("test", "baseline", 0.1, 8, 0.8),
    ("test", "baseline", 0.1, 7, None),
    ("test", "baseline", 0.1, 6, None),
    ("test", "baseline", 0.1, 5, 0.7),
]
# gains, over, must, compare, margin
LEADS = [
    ([2.0, 1.5, 3.0], "every seed", "be at least", "ratio", 1.5),
    ([2.0, 1.25, 3.0], "every seed", "be at least", "ratio", 1.5),
    ([0.5, 0.25, 0.125], "every seed", "be at least", "difference", 0.125),
    ([9.0, -1.0, 9.0, 9.0], "every seed", "be at least", "difference", 0.5),
]
TIES = [
    ([1.25, 0.8, 1.0], "every seed", "stay within", "ratio", 1.5),
    ([1.25, 0.6, 1.0], "every seed", "stay within", "ratio", 1.5),
    ([1.25, 1.6, 1.0], "every seed", "stay within", "ratio", 1.5),
    ([-0.25, 0.125, 0.0], "every seed", "stay within", "difference", 0.5),
    ([-0.75, 0.125, 0.0], "every seed", "stay within", "difference", 0.5),
    ([-0.25, 0.5, 0.0], "every seed", "stay within", "difference", 0.5),
    ([0.2, 0.2, 0.2], "every seed", "stay within", "ratio", 5.5),
]
MEDIANS = [
    ([0.5, 4.0, 2.0], "median", "be at least", "ratio", 1.5),
    ([0.5, 9.0, 1.25], "median", "be at least", "ratio", 1.5),
    ([1.0, 1.25, 1.9, 4.0], "median", "be at least", "ratio", 1.5),
    ([9.0, 0.9, 1.2], "median", "stay within", "ratio", 1.5),
    ([9.0, -8.0, -0.75, 7.0, -6.0], "median", "stay within", "difference", 0.5),
]
INFINITE = [
    ([2.0, -math.inf, 3.0], "every seed", "be at least", "ratio", 1.5),
    ([2.0, math.inf, 3.0], "every seed", "be at least", "ratio", 1.5),
    ([0.0, math.inf, 0.1], "every seed", "stay within", "difference", 0.5),
    ([2.0, -math.inf, 3.0], "median", "be at least", "ratio", 1.5),
]
TUNING = [
    ("tuning", "baseline", 0.03, 1, 0.75),
    ("tuning", "baseline", 0.03, 2, 0.25),
    ("tuning", "baseline", 0.1, 1, 0.5),
    ("tuning", "baseline", 0.1, 2, 0.625),
    ("tuning", "baseline", 0.3, 1, 0.375),
    ("tuning", "baseline", 0.3, 2, 0.4375),
    ("tuning", "treatment", 0.03, 1, 0.9),
    ("tuning", "treatment", 0.1, 1, 0.1),
    ("tuning", "treatment", 1.0, 1, 0.5),
    ("test", "baseline", 1.0, 5, 0.99),
    ("test", "baseline", 3.0, 5, 0.01),
]
FAILING = [
    ("tuning", "baseline", 3.0, 1, 10.0),
    ("tuning", "baseline", 3.0, 2, None),
    ("tuning", "baseline", 1.0, 1, 30.0),
    ("tuning", "baseline", 1.0, 2, 40.0),
    ("tuning", "baseline", 0.3, 1, 40.0),
    ("tuning", "baseline", 0.3, 2, 30.0),
    ("tuning", "baseline", 0.1, 1, None),
    ("tuning", "baseline", 0.1, 2, None),
    ("tuning", "treatment", 0.3, 1, None),
    ("tuning", "treatment", 0.1, 1, None),
    ("tuning", "treatment", 1.0, 1, None),
]
UNEVEN = [
    ("tuning", "treatment", 0.3, 1, 15.0),
    ("tuning", "treatment", 0.1, 1, 40.0),
    ("tuning", "treatment", 0.1, 2, 10.0),
    ("tuning", "treatment", 0.1, 3, 10.0),
    ("tuning", "treatment", 0.3, 2, 16.0),
    ("tuning", "treatment", 0.3, 3, 14.0),
]


def rows(stored):
    """Return stored runs as the dicts that the assignment describes."""
    names = ("stage", "arm", "lr", "seed", "value")
    runs = [dict(zip(names, row, strict=True)) for row in stored]
    return [run | {"failed": "stopped" if run["value"] is None else None} for run in runs]


def bounded(values):
    """Return gains with infinity as 1e9, since JSON has none."""
    return [max(-1e9, min(1e9, float(value))) for value in values]


@asks("gains")
def four_kinds(student):
    """gains for lower and higher, ratio and difference, each"""
    return [
        bounded(student["gains"](rows(STORED), LOWER_RATIO | {"better": b, "compare": c}))
        for b, c in KINDS
    ]


@asks("gains")
def test_runs_only(student):
    """tuning runs left out, though a seed occurs in both stages"""
    more = [("tuning", arm, 0.1, seed, 3.0) for arm in ("treatment", "baseline") for seed in (4, 1)]
    first = student["gains"](rows(more + STORED), dict(LOWER_RATIO))
    return [bounded(first), bounded(student["gains"](rows(STORED + more), dict(LOWER_RATIO)))]


@asks("gains")
def failures(student):
    """gains of seeds in which one arm failed, or both"""
    return [
        bounded(student["gains"](rows(FAILED), LOWER_RATIO | {"better": b, "compare": c}))
        for b, c in KINDS
    ]


def words(student, cases):
    names = ("over", "must", "compare", "margin")
    return [
        str(student["verdict"](list(gains), dict(zip(names, rest, strict=True), better="lower")))
        for gains, *rest in cases
    ]


@asks("verdict")
def leads(student):
    """a claimed lead, in every seed"""
    return words(student, LEADS)


@asks("verdict")
def ties(student):
    """a claimed tie, in every seed"""
    return words(student, TIES)


@asks("verdict")
def medians(student):
    """leads and ties of the median"""
    return words(student, MEDIANS)


@asks("verdict")
def infinite(student):
    """gains of failed runs"""
    return words(student, INFINITE)


@asks("best-rate")
def by_mean(student):
    """the best mean, of one arm and of the tuning runs only"""
    arms = ("baseline", "treatment")
    return [
        float(student["best_rate"](rows(TUNING), arm, better))
        for arm in arms
        for better in ("lower", "higher")
    ]


@asks("best-rate")
def mean_of_three(student):
    """the best mean of three seeds, one of which is far off"""
    runs = rows(UNEVEN)
    return [float(student["best_rate"](runs, "treatment", b)) for b in ("lower", "higher")]


@asks("best-rate")
def fewest_failures(student):
    """failures before means"""
    runs = [run for run in rows(FAILING) if run["lr"] != 1.0]
    return [float(student["best_rate"](runs, "baseline", "lower"))]


@asks("best-rate")
def smallest_of_equals(student):
    """the smallest rate among equals, and when all runs failed"""
    runs = rows(FAILING)
    return [float(student["best_rate"](runs, arm, "higher")) for arm in ("baseline", "treatment")]


@asks("record")
def complete(student):
    """eight entries, and in the plan all eight of its own"""
    return student["record"]


@asks("record")
def fair_plan(student):
    """at least three test seeds, none of which tuned, and three rates for each arm"""
    return student["record"]


@asks("record")
def sealed(student):
    """the seal that was written down fits the plan"""
    return student["record"]


@asks("record")
def all_runs(student):
    """all planned runs, each with a value or a reason"""
    return student["record"]


@asks("record")
def tuned(student):
    """the rates are those that the tuning runs give"""
    return student["record"]


@asks("record")
def baseline_inside(student):
    """the best rate of the baseline lies inside its grid; for a tie also the treatment's"""
    return student["record"]


@asks("record")
def summary(student):
    """median, lowest, highest and failed, computed anew from the runs"""
    return student["record"]


@asks("record")
def follows(student):
    """the verdict follows from the runs by the criterion"""
    return student["record"]


@asks("record")
def repeated(student):
    """every test run, made once more, gives the same number"""
    return {"record": student["record"], "again": student["again"]}
