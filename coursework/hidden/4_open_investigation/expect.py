"""What the answers must be: the rules of the assignment, written once more, and the record's."""

import hashlib
import json
import math

import numpy as np

from grader.judge import Check, observed_inputs

o = observed_inputs(__file__)
ARMS = ("treatment", "baseline")
HOLDS, NOT = "holds", "not reproduced"
WORDS = {
    "better": ("lower", "higher"),
    "compare": ("ratio", "difference"),
    "must": ("be at least", "stay within"),
    "over": ("every seed", "median"),
}
TEXTS = ("claim", "treatment", "baseline", "metric")
PLAN = {*TEXTS, "criterion", "rates", "tuning_seeds", "test_seeds"}
RECORD = {"plan", "seal", "amended", "rates", "runs", "summary", "verdict", "made_with"}
RUN = {"stage", "arm", "lr", "seed", "value", "failed"}


def gain(better, compare, treatment, baseline):
    """Return how far the treatment leads."""
    if treatment is None:
        return -1e9
    if baseline is None:
        return 1e9
    if compare == "ratio":
        return treatment / baseline if better == "higher" else baseline / treatment
    return treatment - baseline if better == "higher" else baseline - treatment


def gains(runs, criterion):
    """Return the gains of the test runs, by seed."""
    test = {(run["arm"], run["seed"]): run["value"] for run in runs if run["stage"] == "test"}
    kind = criterion["better"], criterion["compare"]
    seeds = sorted({seed for _, seed in test})
    return [gain(*kind, test["treatment", seed], test["baseline", seed]) for seed in seeds]


def verdict(found, criterion):
    """Return the verdict on gains."""
    margin = criterion["margin"]
    low, high = margin, math.inf
    if criterion["must"] == "stay within":
        low, high = (1 / margin if criterion["compare"] == "ratio" else -margin), margin
    judged = found if criterion["over"] == "every seed" else [float(np.median(found))]
    return HOLDS if low <= min(judged) and max(judged) <= high else NOT


def best_rate(runs, arm, better):
    """Return the best rate of the tuning runs: failures first, then the mean, then the rate."""
    sign = 1 if better == "lower" else -1
    ranks = []
    for lr in {run["lr"] for run in runs if run["arm"] == arm and run["stage"] == "tuning"}:
        values = [
            run["value"]
            for run in runs
            if (run["stage"], run["arm"], run["lr"]) == ("tuning", arm, lr)
        ]
        there = [value for value in values if value is not None]
        mean = sign * float(np.mean(there)) if there else 0.0
        ranks.append((len(values) - len(there), mean, lr))
    return min(ranks)[2]


def simple(value):
    """Return an answer with arrays of one number as numbers."""
    if isinstance(value, np.ndarray):
        return value.item() if value.ndim == 0 else value.tolist()
    if isinstance(value, dict):
        return {key: simple(part) for key, part in value.items()}
    return [simple(part) for part in value] if isinstance(value, list) else value


def number(value):
    """Tell whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def with_record(check):
    """Let a check see a complete record of simple values; otherwise say what is missing."""

    def passes(answer):
        record = simple(answer)
        return incomplete(record) or check(record)

    return passes


def incomplete(record):
    """Return what a record lacks, or None."""
    if not isinstance(record, dict) or set(record) != RECORD:
        got = sorted(record) if isinstance(record, dict) else type(record).__name__
        return f"expected a dict with {', '.join(sorted(RECORD))}, got {got}"
    plan = record["plan"]
    if not isinstance(plan, dict) or not set(plan) >= PLAN:
        return f"expected a plan with {', '.join(sorted(PLAN))}"
    if any(not isinstance(plan[name], str) or len(plan[name].split()) < 3 for name in TEXTS):
        return f"expected a sentence each for {', '.join(TEXTS)}"
    if any(plan["criterion"].get(key) not in words for key, words in WORDS.items()):
        return f"expected a criterion with {WORDS}"
    margin = plan["criterion"].get("margin")
    if not number(margin) or margin <= (plan["criterion"]["compare"] == "ratio"):
        return "expected a margin above 1 for a ratio, above 0 for a difference"
    if not record["runs"] or any(set(run) != RUN for run in record["runs"]):
        return f"expected a list of runs, each with {', '.join(sorted(RUN))}"
    if not isinstance(record["amended"], list) or not record["made_with"]:
        return "expected a list of amendments, and what made_with() returns"
    return None


def unfair(record):
    """Return what is wrong with the seeds and rates of a plan, or None."""
    plan = record["plan"]
    test, tuning = plan["test_seeds"], plan["tuning_seeds"]
    if len(set(test)) < 3 or len(set(test)) < len(test):
        return f"expected at least three different test seeds, got {test}"
    if not tuning or set(test) & set(tuning):
        return f"expected tuning seeds, other ones than the test seeds, got {tuning}"
    counts = {arm: len(set(plan["rates"].get(arm, []))) for arm in ARMS}
    return None if min(counts.values()) >= 3 else f"expected three rates for each arm, got {counts}"


def unsealed(record):
    """Return None if the seal fits the plan."""
    text = json.dumps(record["plan"], sort_keys=True, ensure_ascii=True)
    fits = record["seal"] == hashlib.sha256(text.encode()).hexdigest()[:12]
    return None if fits else "the plan in the record is not the one that was sealed"


def not_all(record):
    """Return which planned runs are missing or made up, or None."""
    plan, runs = record["plan"], record["runs"]
    planned = [
        ("tuning", arm, lr, seed)
        for arm in ARMS
        for lr in plan["rates"][arm]
        for seed in plan["tuning_seeds"]
    ]
    planned += [("test", arm, record["rates"][arm], s) for arm in ARMS for s in plan["test_seeds"]]
    listed = [(run["stage"], run["arm"], run["lr"], run["seed"]) for run in runs]
    if sorted(listed) != sorted(planned):
        missing, unknown = set(planned) - set(listed), set(listed) - set(planned)
        return (
            f"expected the {len(planned)} planned runs, got {len(listed)}: {len(missing)} are "
            f"missing, {len(unknown)} were not planned"
        )
    for run in runs:
        reason = isinstance(run["failed"], str) and run["failed"] != ""
        if not (reason if run["value"] is None else number(run["value"]) and not reason):
            return f"expected a value, or None and a sentence, for {run['arm']} {run['seed']}"
    return None


def untuned(record):
    """Return whose rate is not the one that the tuning runs give, or None."""
    better = record["plan"]["criterion"]["better"]
    for arm in ARMS:
        best = best_rate(record["runs"], arm, better)
        if record["rates"].get(arm) != best:
            return (
                f"the tuning runs give another rate for the {arm} than {record['rates'].get(arm)}"
            )
    return None


def at_the_edge(record):
    """Return None if the best rate is inside its grid, or no rate works.

    For a lead the baseline's is looked at; for a tie both, since a badly tuned treatment may tie.
    """
    tie = record["plan"]["criterion"]["must"] == "stay within"
    for arm in ARMS if tie else ["baseline"]:
        rates, lr = sorted(record["plan"]["rates"][arm]), record["rates"][arm]
        mine = [r for r in record["runs"] if r["arm"] == arm and r["stage"] == "tuning"]
        failed = mine and all(run["value"] is None for run in mine)
        if not (failed or rates[0] < lr < rates[-1]):
            return f"{arm}: {lr} is the first or last of {rates}: a better one may lie outside"
    return None


def wrong_summary(record):
    """Return which number of the summary the runs do not give, or None."""
    for arm in ARMS:
        test = [r["value"] for r in record["runs"] if r["stage"] == "test" and r["arm"] == arm]
        there = [value for value in test if value is not None]
        expected = {
            "median": float(np.median(there)) if there else None,
            "lowest": min(there, default=None),
            "highest": max(there, default=None),
            "failed": len(test) - len(there),
        }
        for name, value in expected.items():
            got = record["summary"][arm][name]
            if (got is None) != (value is None) or (
                value is not None and not math.isclose(got, value, rel_tol=1e-6, abs_tol=1e-9)
            ):
                return f"the runs of the {arm} give another {name} than {got}"
    return None


def does_not_follow(record):
    """Return None if the verdict is what the criterion says of the runs."""
    criterion = record["plan"]["criterion"]
    values = [run["value"] for run in record["runs"] if run["value"] is not None]
    if criterion["compare"] == "ratio" and min(values, default=1) <= 0:
        return f"a ratio needs a metric that is always above 0, got {min(values)}"
    expected = verdict(gains(record["runs"], criterion), criterion)
    if record["verdict"] == expected:
        return None
    return f"by the criterion the runs do not give the verdict {record['verdict']!r}"


def not_repeated(answer):
    """Return which arm's runs gave other numbers when they were made again, or None."""
    record, again = simple(answer["record"]), simple(answer["again"])
    problem = incomplete(record)
    if problem:
        return problem
    for arm in ARMS:
        worked = [
            run["value"]
            for run in record["runs"]
            if run["arm"] == arm and run["stage"] == "test" and run["value"] is not None
        ]
        got = again.get(arm) if isinstance(again, dict) else None
        if not isinstance(got, list) or len(got) != len(worked):
            return f"expected {len(worked)} repeated test runs of the {arm}, got {got}"
        pairs = zip(worked, got, strict=True)
        if not all(number(b) and math.isclose(a, b, rel_tol=1e-3) for a, b in pairs):
            return f"the test runs of the {arm} gave {worked}, made again {got}"
    return None


def stored(rows, kinds):
    """Return the gains of stored rows for several kinds."""
    return [gains(o.rows(rows), {"better": b, "compare": c}) for b, c in kinds]


def words(cases):
    """Return the verdicts of stored cases."""
    names = ("over", "must", "compare", "margin")
    return [verdict(found, dict(zip(names, rest, strict=True))) for found, *rest in cases]


CHECKS = {
    "gains": {
        "four_kinds": Check(
            3,
            lambda: stored(o.STORED, o.KINDS),
            rtol=1e-9,
            atol=1e-12,
            hint="Which of the two stands in the numerator when lower is better?",
        ),
        "test_runs_only": Check(
            2,
            lambda: stored(o.STORED, [o.KINDS[0]] * 2),
            rtol=1e-9,
            atol=1e-12,
            hint="Which entry of a run says whether it judges?",
        ),
        "failures": Check(
            2,
            lambda: stored(o.FAILED, o.KINDS),
            rtol=1e-9,
            atol=1e-12,
            hint="Read the two sentences on failures in the docstring once more.",
        ),
    },
    "verdict": {
        "leads": Check(1, lambda: words(o.LEADS), hint="Does a gain equal to the margin meet it?"),
        "ties": Check(2, lambda: words(o.TIES), hint="How far may the treatment lag behind?"),
        "medians": Check(2, lambda: words(o.MEDIANS), hint="Which number has to meet the margin?"),
        "infinite": Check(1, lambda: words(o.INFINITE), hint="What if one gain is infinite?"),
    },
    "best-rate": {
        "by_mean": Check(
            2, [0.3, 0.1, 0.1, 0.03], rtol=1e-9, hint="Which runs belong to the tuning of an arm?"
        ),
        "mean_of_three": Check(1, [0.3, 0.1], rtol=1e-9, hint="Does each tuning seed count?"),
        "fewest_failures": Check(1, [0.3], rtol=1e-9, hint="What ranks before the mean?"),
        "smallest_of_equals": Check(1, [0.3, 0.1], rtol=1e-9, hint="Who wins among equals?"),
    },
    "record": {
        "complete": Check(
            1, passes=with_record(lambda _: None), hint="The table of section 6 lists the entries."
        ),
        "fair_plan": Check(1, passes=with_record(unfair), hint="Do tuning seeds judge?"),
        "sealed": Check(1, passes=with_record(unsealed), hint="Did the plan change afterwards?"),
        "all_runs": Check(
            2, passes=with_record(not_all), hint="A failed run is a result, too: is it listed?"
        ),
        "tuned": Check(1, passes=with_record(untuned), hint="Which rate do the tuning runs give?"),
        "baseline_inside": Check(
            1, passes=with_record(at_the_edge), hint="Could a rate outside the grid be better?"
        ),
        "summary": Check(
            1, passes=with_record(wrong_summary), hint="Which runs enter the summary?"
        ),
        "follows": Check(
            1, passes=with_record(does_not_follow), hint="What do your own functions say?"
        ),
        "repeated": Check(
            3, passes=not_repeated, hint="What in run_once does not follow from the seed?"
        ),
    },
}
