"""Checks that you can run yourself. They test properties, never show an answer, and never raise."""

import functools
import json
import math

ARMS = ("treatment", "baseline")
WORDS = {
    "better": ("lower", "higher"),
    "compare": ("ratio", "difference"),
    "must": ("be at least", "stay within"),
    "over": ("every seed", "median"),
}
TEXTS = ("claim", "treatment", "baseline", "metric")
RUN = {"stage", "arm", "lr", "seed", "value", "failed"}
RECORD = {"plan", "seal", "amended", "rates", "runs", "summary", "verdict", "made_with"}


def _shows(check):
    """Print what a check yields: texts that begin with ✓ or ✗; an exception becomes a ✗."""

    @functools.wraps(check)
    def show(*arguments):
        try:
            for line in check(*arguments):
                print(line)
        except NotImplementedError:
            print("✗ not written yet: the function still raises NotImplementedError")
        except Exception as error:
            print(f"✗ your code raised {type(error).__name__}: {error}")

    return show


def _line(right, name, otherwise):
    return f"✓ {name}" if right else f"✗ {name}: {otherwise}"


def _run(arm, seed, value, stage="test", lr=0.1):
    failed = "stopped" if value is None else None
    return {"stage": stage, "arm": arm, "lr": lr, "seed": seed, "value": value, "failed": failed}


def _runs(treatment, baseline):
    pairs = zip(ARMS, (treatment, baseline), strict=True)
    return [_run(arm, seed, value) for arm, row in pairs for seed, value in enumerate(row)]


def _same(got, expected):
    return len(got) == len(expected) and all(
        a == b or math.isclose(a, b, rel_tol=1e-9) for a, b in zip(got, expected, strict=True)
    )


@_shows
def gains(gains):
    """Check ``gains(runs, criterion)``."""
    low, high = [20.0, 25.0, 40.0], [50.0, 30.0, 36.0]
    kinds = [(b, c) for b in WORDS["better"] for c in WORDS["compare"]]
    found = {k: gains(_runs(low, high), {"better": k[0], "compare": k[1]}) for k in kinds}
    lengths = {len(value) for value in found.values()}
    yield _line(
        lengths == {3}, "one gain for each test seed", f"expected 3 gains, got {sorted(lengths)}"
    )
    leads = all((a > 0) == (b > 1) for b in WORDS["better"] for a, b in _pairs(found, b))
    yield _line(
        leads,
        "ratio and difference agree on who leads",
        "a lead must have a ratio above 1 and a difference above 0; see the table in the docstring",
    )
    opposite = zip(found["lower", "difference"], found["higher", "difference"], strict=True)
    yield _line(
        all(math.isclose(a, -b) for a, b in opposite) and found["lower", "difference"][0] > 0,
        "lower and higher are opposites",
        "20 steps against 50 are a lead of the treatment if lower is better, else a lag",
    )
    criterion = {"better": "lower", "compare": "ratio"}
    shuffled = list(reversed(_runs(low, high)))
    yield _line(
        _same(gains(shuffled, criterion), found["lower", "ratio"]),
        "the order of the list does not matter",
        "the gains must come in the order of the seeds, whatever the order of the runs",
    )
    tuning = [_run(arm, 1, 7.0, "tuning") for arm in ARMS] + _runs(low, high)
    tuning += [_run(arm, 99, 7.0, "tuning") for arm in ARMS]
    yield _line(
        _same(gains(tuning, criterion), found["lower", "ratio"]),
        "tuning runs do not judge",
        "adding runs of the stage 'tuning' changed the gains",
    )
    failed = gains(_runs([None, 20.0], [30.0, None]), criterion)
    yield _line(
        failed == [-math.inf, math.inf],
        "failed runs have a gain, too",
        f"one failure of each arm must give -infinity, then infinity; got {failed}",
    )


def _pairs(found, better):
    return zip(found[better, "difference"], found[better, "ratio"], strict=True)


@_shows
def verdict(verdict):
    """Check ``verdict(gains, criterion)``."""
    answers = {
        (must, over, compare): [
            verdict(
                [1.1, 1.6, 1.9],
                {"must": must, "over": over, "compare": compare, "margin": margin},
            )
            for margin in (1.01, 1.5, 2.5)
        ]
        for must in WORDS["must"]
        for over in WORDS["over"]
        for compare in WORDS["compare"]
    }
    words = {word for row in answers.values() for word in row}
    yield _line(
        words == {"holds", "not reproduced"},
        "two verdicts",
        f"expected 'holds' and 'not reproduced' to occur, got {sorted(map(str, words))}",
    )
    lead = {key: [word == "holds" for word in row] for key, row in answers.items()}
    yield _line(
        all(row == sorted(row, reverse=key[0] == "be at least") for key, row in lead.items()),
        "margins push the right way",
        "a larger margin makes a lead harder to show and a tie easier",
    )
    yield _line(
        all(
            sum(row) <= sum(lead[key[0], "median", key[2]])
            for key, row in lead.items()
            if key[1] == "every seed"
        ),
        "every seed is harder than the median",
        "whatever holds in every seed holds for the median, too",
    )
    tie = {"must": "stay within", "over": "every seed", "margin": 1.5}
    behind = [
        verdict([value], tie | {"compare": kind})
        for kind, value in (("ratio", 0.2), ("difference", -9.0))
    ]
    yield _line(
        behind == ["not reproduced"] * 2,
        "a tie has two sides",
        "a treatment that lags far behind does not stay within a margin",
    )


@_shows
def best_rate(best_rate):
    """Check ``best_rate(runs, arm, better)``."""
    values = {0.1: (50.0, 60.0), 0.3: (20.0, 30.0), 1.0: (70.0, 90.0)}
    runs = [
        _run("baseline", seed, value, "tuning", lr)
        for lr, row in values.items()
        for seed, value in enumerate(row)
    ]
    low, high = (best_rate(runs, "baseline", better) for better in WORDS["better"])
    yield _line(
        low in values and high in values and low != high,
        "returns a rate of the grid, by what is better",
        f"expected two different rates of {list(values)}, got {low} for lower and {high} for higher",
    )
    other = [_run("treatment", 0, 1.0, "tuning", 1.0), _run("baseline", 5, 1.0, "test", 1.0)]
    yield _line(
        best_rate(other + runs, "baseline", "lower") == low,
        "looks at one arm and one stage",
        "runs of the other arm or of the stage 'test' changed the answer",
    )
    broken = [_run("baseline", 0, 1.0, "tuning", 3.0), _run("baseline", 1, None, "tuning", 3.0)]
    yield _line(
        best_rate(broken + runs, "baseline", "lower") == low,
        "a rate that fails now and then does not win",
        "compare the number of failed runs first, and only then the means",
    )
    none = [_run("baseline", seed, None, "tuning", lr) for lr in (1.0, 0.3) for seed in (0, 1)]
    yield _line(
        best_rate(none, "baseline", "lower") in (0.3, 1.0),
        "answers even if all runs failed",
        "expected a rate of the grid",
    )


@_shows
def carry_out(carry_out):
    """Check ``carry_out(plan, run_once)`` with a run that fails in two ways."""
    calls = []

    def run_once(arm, lr, seed):
        calls.append((arm, lr, seed))
        if lr > 0.5:
            raise FloatingPointError("the loss was nan")
        return math.nan if seed == 12 and arm == "baseline" else 10.0 / lr + seed

    plan = {
        "rates": {"treatment": [0.1, 0.2, 0.4], "baseline": [0.2, 0.4, 0.8]},
        "tuning_seeds": [1, 2],
        "test_seeds": [11, 12, 13],
        "criterion": {"better": "lower"},
    }
    runs = carry_out(plan, run_once)
    yield _line(
        len(runs) == 18,
        "all runs are listed, failures included",
        f"expected 2 arms x 3 rates x 2 seeds and 2 arms x 3 seeds, 18 runs, got {len(runs)}",
    )
    shapes = {frozenset(run) for run in runs}
    yield _line(
        shapes == {frozenset(RUN)},
        "each run has its six entries",
        f"expected {sorted(RUN)}, got {[sorted(shape) for shape in shapes]}",
    )
    yield _line(
        all((run["value"] is None) == isinstance(run["failed"], str) for run in runs),
        "a run has a value or says how it failed",
        "expected either a value and failed = None, or value = None and a sentence",
    )
    yield _line(
        len(calls) == 18 and len(set(calls)) == 18,
        "each planned run is made once",
        f"expected 18 different calls of run_once, got {len(calls)}, {len(set(calls))} different",
    )
    yield _line(
        {run["stage"] for run in runs} == {"tuning", "test"},
        "both stages are named",
        "expected the stages 'tuning' and 'test'",
    )


@_shows
def plan(plan):
    """Check that a plan is complete; whether it is wise is for people to say."""
    missing = [name for name in (*TEXTS, "criterion", "rates") if not plan.get(name)]
    missing += [name for name in ("tuning_seeds", "test_seeds") if not plan.get(name)]
    yield _line(not missing, "nothing is missing", f"expected entries for {', '.join(missing)}")
    if missing:
        return
    criterion = plan["criterion"]
    wrong = [key for key, words in WORDS.items() if criterion.get(key) not in words]
    yield _line(not wrong, "the criterion uses the agreed words", f"see the table for {wrong}")
    margin = criterion.get("margin")
    number = isinstance(margin, int | float) and math.isfinite(margin)
    above = 1 if criterion.get("compare") == "ratio" else 0
    yield _line(
        number and margin > above,
        "the margin asks for something",
        f"expected a number above {above}, for a {criterion.get('compare')}, got {margin!r}",
    )
    test, tuning = plan["test_seeds"], plan["tuning_seeds"]
    yield _line(
        len(set(test)) == len(test) >= 3 and not set(test) & set(tuning),
        "seeds enough, and none both tunes and judges",
        "expected at least three different test seeds, none of them in tuning_seeds",
    )
    counts = {arm: len(set(plan["rates"].get(arm, []))) for arm in ARMS}
    yield _line(
        min(counts.values()) >= 3,
        "both arms have a grid of rates",
        f"expected at least three rates for each arm, got {counts}",
    )
    json.dumps(plan)


@_shows
def record(record, seal, gains, verdict):
    """Check that a record is complete and agrees with itself, by your own functions."""
    yield _line(
        set(record) == RECORD,
        "eight entries",
        f"missing: {sorted(RECORD - set(record))}, unknown: {sorted(set(record) - RECORD)}",
    )
    if set(record) != RECORD:
        return
    size = len(json.dumps(record, allow_nan=False))
    yield _line(size < 200_000, f"can be written as JSON, {size} letters", "expected below 200,000")
    plan, runs = record["plan"], record["runs"]
    yield _line(
        record["seal"] == seal(plan),
        "the seal fits the plan",
        "the plan is not the one that was sealed; if you amended it, see section 4",
    )
    planned = sum(len(plan["rates"][arm]) * len(plan["tuning_seeds"]) for arm in ARMS)
    planned += len(ARMS) * len(plan["test_seeds"])
    yield _line(
        len(runs) == planned, "all planned runs are there", f"expected {planned}, got {len(runs)}"
    )
    for arm in ARMS:
        row = record["summary"][arm]
        there = len(plan["test_seeds"]) - row["failed"]
        ordered = not there or row["lowest"] <= row["median"] <= row["highest"]
        yield _line(
            ordered and there >= 0,
            f"the summary of the {arm} makes sense",
            "expected lowest <= median <= highest, over the test runs only",
        )
    rates = sorted(plan["rates"]["baseline"])
    yield _line(
        rates[0] < record["rates"]["baseline"] < rates[-1],
        "the best rate of the baseline lies inside its grid",
        "a better one may lie outside: amend the plan with a wider grid, and say so",
    )
    yield _line(
        record["verdict"] == verdict(gains(runs, plan["criterion"]), plan["criterion"]),
        "the verdict follows from the runs by your criterion",
        "expected what your own functions say",
    )
