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
INF = math.inf
TEXTS = ("claim", "treatment", "baseline", "metric")
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
    broken = _runs([None, 20.0, None], [30.0, None, None])
    failed = {k: list(gains(broken, {"better": k[0], "compare": k[1]})) for k in kinds}
    wrong = [f"{kind}: {got}" for kind, got in failed.items() if not _same(got, [-INF, INF, -INF])]
    yield _line(
        not wrong,
        "failed runs have a gain, too",
        "a failure of the treatment, of the baseline, of both must give -infinity, infinity, "
        f"-infinity, whatever the criterion; got for {wrong[:1]}",
    )
    zero = gains(_runs([0.0], [0.5]), criterion | {"compare": "difference"})
    yield _line(
        _same(zero, [0.5]), "a value of 0 is no failure", "only a run whose value is None failed"
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
        for kind, value in (("ratio", 0.2), ("ratio", 0.6), ("difference", -9.0))
    ]
    yield _line(
        behind == ["not reproduced"] * 3,
        "a tie has two sides",
        "a treatment that lags too far behind does not stay within a margin; see the docstring "
        "for how far that is",
    )
    lead = {"must": "be at least", "over": "every seed", "compare": "ratio", "margin": 1.5}
    exact = [([1.5], lead), ([2.0], tie | {"compare": "ratio", "margin": 2.0})]
    exact += [([-1.5], tie | {"compare": "difference"})]
    yield _line(
        all(verdict(gain, criterion) == "holds" for gain, criterion in exact),
        "who meets the margin exactly, meets it",
        "read the signs >= and <= in the docstring once more",
    )
    endless = [verdict([2.0, gain, 3.0], lead) for gain in (-INF, INF)]
    yield _line(
        endless == ["not reproduced", "holds"],
        "infinite gains count, too",
        "a seed in which one arm failed is judged like every other",
    )
    four = [5.0, 0.9, 2.0, 1.2]
    found = [verdict(four, lead | {"over": "median", "margin": margin}) for margin in (1.5, 1.7)]
    yield _line(
        found == ["holds", "not reproduced"],
        "four gains have a median, too",
        "the median of an even number of gains lies half-way between the two in the middle",
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
    other += [_run("treatment", 0, 1.0, "tuning", 3.0), _run("baseline", 5, 1.0, "test", 3.0)]
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
        best_rate(none, "baseline", "lower") == 0.3,
        "answers even if all runs failed",
        "the docstring says which rate that is",
    )
    thrice = {1.0: (12.0, 12.0, 48.0), 0.3: (18.0, 19.0, 17.0)}
    uneven = [
        _run("baseline", seed, value, "tuning", lr)
        for lr, row in thrice.items()
        for seed, value in enumerate(row)
    ]
    yield _line(
        best_rate(uneven, "baseline", "lower") == 0.3,
        "every tuning seed has its weight in the mean",
        "one of three seeds that is far off must count; see the docstring",
    )
    equal = [_run("baseline", 0, 40.0, "tuning", lr) for lr in (1.0, 0.3, 3.0)]
    yield _line(
        all(best_rate(equal, "baseline", better) == 0.3 for better in WORDS["better"]),
        "equals are told apart",
        "the answer must not hang on the order of the list; see the docstring",
    )


def _plain(plan):
    """Tell whether a plan can be written as JSON."""
    try:
        json.dumps(plan)
    except TypeError:
        return False
    return True


@_shows
def plan(plan):
    """Check that a plan is complete; whether it is wise is for people to say."""
    yield _line(
        _plain(plan), "plain lists and numbers", "write [1, 2, 3] for range(1, 4), 0.1 for a tensor"
    )
    if not _plain(plan):
        return
    missing = [name for name in (*TEXTS, "criterion", "rates") if not plan.get(name)]
    missing += [name for name in ("tuning_seeds", "test_seeds") if not plan.get(name)]
    yield _line(not missing, "nothing is missing", f"expected entries for {', '.join(missing)}")
    if missing:
        return
    short = [name for name in TEXTS if len(str(plan[name]).split()) < 3]
    same = plan["treatment"] == plan["baseline"]
    yield _line(
        not short and not same,
        "claim, arms and metric are described",
        "the arms have the same text" if same else f"a sentence for {', '.join(short)}, please",
    )
    yield from _criterion(plan["criterion"])
    test, tuning = plan["test_seeds"], plan["tuning_seeds"]
    yield _line(
        len(set(test)) == len(test) >= 3 and not set(test) & set(tuning),
        "seeds enough, and none both tunes and judges",
        "expected at least three different test seeds, none of them in tuning_seeds",
    )
    yield from _rates(plan["rates"])


def _criterion(criterion):
    wrong = [key for key, words in WORDS.items() if criterion.get(key) not in words]
    yield _line(not wrong, "the criterion uses the agreed words", f"see the table for {wrong}")
    margin, ratio = criterion.get("margin"), criterion.get("compare") == "ratio"
    number = isinstance(margin, int | float) and math.isfinite(margin)
    yield _line(
        number and margin > (1.01 if ratio else 0),
        "the margin is more than nothing (whether it is enough is for question 3)",
        f"expected {'a ratio above 1.01' if ratio else 'a difference above 0'}, got {margin!r}",
    )


def _rates(rates):
    lists = isinstance(rates, dict) and all(isinstance(rates.get(arm), list) for arm in ARMS)
    yield _line(lists, "a grid for each arm", "rates: a dict with one list per arm")
    if not lists:
        return
    grids = [sorted(set(rates[arm])) for arm in ARMS]
    counts = [len(grid) for grid in grids]
    yield _line(min(counts) >= 3, "at least three rates for each arm", f"got {counts}")
    widths = [grid[-1] / grid[0] for grid in grids if grid and grid[0] > 0]
    yield _line(
        len(widths) == 2 and max(widths) <= 10 * min(widths) and max(counts) <= 2 * min(counts),
        "the grids give both arms a like chance",
        "expected positive rates, and neither grid far wider or finer than the other",
    )


@_shows
def tuning(plan, runs, best_rate):
    """Say where the best rates lie and whether the values fit the criterion, before any gain."""
    for arm in ARMS:
        best = best_rate(runs, arm, plan["criterion"]["better"])
        if arm in _tuned_well(plan):
            yield _edge(plan, runs, best, arm)
        else:
            yield f"  the best rate of the {arm} is {best:g}"
    yield _comparable(plan, runs)


def _tuned_well(plan):
    """Return the arms whose best rate must lie inside their grid."""
    return ARMS if plan["criterion"]["must"] == "stay within" else ["baseline"]


@_shows
def record(record, again, seal, gains, verdict, best_rate, summary):
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
        "the plan is not the one that was sealed; if you amended it, see section 4"
        if record["seal"]
        else "not sealed yet, see section 4",
    )
    reasons = all(
        isinstance(row, dict) and row.get("seal") and row.get("why") for row in record["amended"]
    )
    yield _line(reasons, "amendments have reasons", 'expected {"seal": …, "why": …} for each')
    planned = sum(len(plan["rates"][arm]) * len(plan["tuning_seeds"]) for arm in ARMS)
    planned += len(ARMS) * len(plan["test_seeds"])
    yield _line(
        len(runs) == planned,
        "all planned runs are there",
        f"expected {planned}, got {len(runs)}; the rest is not looked at until they are",
    )
    if len(runs) == planned:
        yield from _follows(record, gains, verdict, best_rate, summary)
        yield from _repeats(runs, again)


def _follows(record, gains, verdict, best_rate, summary):
    criterion, runs = record["plan"]["criterion"], record["runs"]
    for arm in ARMS:
        yield _line(
            record["rates"][arm] == best_rate(runs, arm, criterion["better"]),
            f"the rate of the {arm} is the one that tuning found",
            "expected what your best_rate says",
        )
    yield _line(
        record["summary"] == summary(runs), "the summary fits the runs", "expected summary(runs)"
    )
    for arm in _tuned_well(record["plan"]):
        yield _edge(record["plan"], runs, record["rates"][arm], arm)
    yield _line(
        record["verdict"] == verdict(gains(runs, criterion), criterion),
        "the verdict follows from the runs by your criterion",
        "expected what your own functions say",
    )


def _comparable(plan, runs):
    low = [r["value"] for r in runs if r["value"] is not None and r["value"] <= 0]
    return _line(
        not (low and plan["criterion"]["compare"] == "ratio"),
        "the values can be compared as the criterion says",
        f"a ratio needs a metric that is always above 0, got {low[:1]}: amend, with a difference",
    )


def _edge(plan, runs, best, arm):
    rates = sorted(plan["rates"][arm])
    tuning = [r for r in runs if (r["stage"], r["arm"]) == ("tuning", arm)]
    if all(run["value"] is None for run in tuning):
        return f"✗ no tuning run of the {arm} worked: its grid or run_once may be at fault"
    return _line(
        rates[0] < best < rates[-1],
        f"the best rate of the {arm}, {best:g}, lies inside its grid",
        "a better one may lie outside: amend the plan with a wider grid and fresh test seeds",
    )


def _repeats(runs, again):
    for arm in ARMS:
        worked = [r["value"] for r in runs if (r["stage"], r["arm"]) == ("test", arm)]
        worked = [value for value in worked if value is not None]
        yield _line(
            len(again[arm]) == len(worked)
            and all(
                b is not None and math.isclose(a, b, rel_tol=1e-3)
                for a, b in zip(worked, again[arm], strict=True)
            ),
            f"the test runs of the {arm} repeat",
            "the cell above says which run does not, or was not run since; see run_once",
        )
