"""Wrong and right variants of "Open investigation", as data for the tests of the grader."""

CODED_VERDICT = """
def verdict(gains, criterion):
    return "holds" if sum(gains) / len(gains) > criterion["margin"] else "not reproduced"
"""

TIED_PLAN = """
plan = {
    "claim": "One batch norm behind the last hidden layer is as fast as one behind the third.",
    "treatment": "six hidden layers of 48 units, batch norm behind the sixth",
    "baseline": "the same network, batch norm behind the third",
    "metric": "steps until 90 % of 512 training digits are right",
    "criterion": dict(
        better="lower", compare="ratio", must="stay within", margin=1.5, over="every seed"
    ),
    "rates": {"treatment": [0.1, 0.3, 1.0], "baseline": [0.1, 0.3, 1.0]},
    "tuning_seeds": [101, 102],
    "test_seeds": [2001, 2002, 2003],
}
SEAL, AMENDED = seal(plan), []
"""

MUTANTS = [
    dict(
        name="a lower metric treated as a higher one",
        task="gains",
        cell="gains-code",
        swap=('criterion["better"] == "lower"', 'criterion["better"] == "higher"'),
    ),
    dict(
        name="always a ratio",
        task="gains",
        cell="gains-code",
        swap=('if criterion["compare"] == "ratio" else good - bad', ""),
    ),
    dict(
        name="tuning runs judge, too",
        task="gains",
        cell="gains-code",
        swap=('run["stage"] == "test"', "run"),
    ),
    dict(
        name="gains in the order of the list",
        task="gains",
        cell="gains-code",
        swap=('sorted(values["treatment"])', 'values["treatment"]'),
    ),
    dict(
        name="both failed counts as a lead",
        task="gains",
        cell="gains-code",
        swap=("-math.inf if good is None else math.inf", "math.inf if bad is None else -math.inf"),
    ),
    dict(
        name="failed seeds drop out",
        task="gains",
        cell="gains-code",
        swap=("result.append(-math.inf if good is None else math.inf)", "pass"),
    ),
    dict(
        name="must exceed the margin",
        task="verdict",
        cell="verdict-code",
        swap=("all(gain >= margin", "all(gain > margin"),
    ),
    dict(
        name="one seed is enough",
        task="verdict",
        cell="verdict-code",
        swap=("met = all(gain >= margin", "met = any(gain >= margin"),
    ),
    dict(
        name="a tie with one side",
        task="verdict",
        cell="verdict-code",
        swap=("low <= gain <= margin", "gain <= margin"),
    ),
    dict(
        name="the difference's side for a ratio",
        task="verdict",
        cell="verdict-code",
        swap=('1 / margin if criterion["compare"] == "ratio" else -margin', "-margin"),
    ),
    dict(
        name="the mean for the median",
        task="verdict",
        cell="verdict-code",
        swap=("np.median(gains)", "np.mean(gains)"),
    ),
    dict(
        name="a tie within the same distance on both sides",
        task="verdict",
        cell="verdict-code",
        swap=(
            "low <= gain <= margin",
            'abs(gain - (criterion["compare"] == "ratio")) <= margin - (criterion["compare"] == "ratio")',
        ),
    ),
    dict(
        name="infinite gains drop out",
        task="verdict",
        cell="verdict-code",
        swap=("judged = gains if", "judged = [g for g in gains if math.isfinite(g)] if"),
    ),
    dict(name="mean against margin", task="verdict", cell="verdict-code", source=CODED_VERDICT),
    dict(
        name="test runs tune",
        task="best-rate",
        cell="best-rate-code",
        swap=('run["stage"] == "tuning" and ', ""),
    ),
    dict(
        name="both arms tune together",
        task="best-rate",
        cell="best-rate-code",
        swap=(' and run["arm"] == arm', ""),
    ),
    dict(
        name="failures do not count",
        task="best-rate",
        cell="best-rate-code",
        swap=("len(values[lr]) - len(there), ", ""),
    ),
    dict(
        name="largest of equals",
        task="best-rate",
        cell="best-rate-code",
        swap=("-mean, lr)", "-mean, -lr)"),
    ),
    dict(
        name="higher is always better",
        task="best-rate",
        cell="best-rate-code",
        swap=('mean if better == "lower" else -mean', "-mean"),
    ),
    dict(
        name="the median of the tuning seeds",
        task="best-rate",
        cell="best-rate-code",
        swap=("np.mean(there)", "np.median(there)"),
    ),
    dict(
        name="the luckiest tuning seed",
        task="best-rate",
        cell="best-rate-code",
        swap=("np.mean(there)", "(min if better == 'lower' else max)(there)"),
    ),
    dict(
        name="two test seeds",
        task="record",
        cell="plan-code",
        swap=("[2001, 2002, 2003, 2004, 2005]", "[2001, 2002]"),
    ),
    dict(
        name="a tuning seed judges",
        task="record",
        cell="plan-code",
        swap=("[2001, 2002, 2003, 2004, 2005]", "[101, 2002, 2003]"),
    ),
    dict(
        name="the margin moved after the seal",
        task="record",
        cell="plan-code",
        swap=('"margin": 1.5', '"margin": 1.25'),
    ),
    dict(
        name="an untuned baseline",
        task="record",
        cell="plan-code",
        swap=('"baseline": [0.03, 0.1, 0.3, 1.0]', '"baseline": [0.1]'),
    ),
    dict(
        name="the grid of the baseline ends too early",
        task="record",
        cell="plan-code",
        swap=('"baseline": [0.03, 0.1, 0.3, 1.0]', '"baseline": [0.03, 0.1, 0.3]'),
    ),
    dict(
        name="starting weights without a seed",
        task="record",
        cell="run-once-code",
        swap=("torch.manual_seed(seed)", "torch.rand(1)"),
    ),
    dict(
        name="a run that fails when it is made again",
        task="record",
        cell="run-once-code",
        swap=(
            "torch.manual_seed(seed)",
            "torch.manual_seed(None if globals().get('record') else seed)",
        ),
    ),
    dict(
        name="tuning runs left out of the record",
        task="record",
        cell="record-code",
        swap=('"runs": runs', '"runs": [run for run in runs if run["stage"] == "test"]'),
    ),
    dict(
        name="failures deleted from the record",
        task="record",
        cell="record-code",
        swap=('"runs": runs', '"runs": [run for run in runs if run["failed"] is None]'),
    ),
    dict(
        name="the worst seed deleted from the record",
        task="record",
        cell="record-code",
        swap=('"runs": runs', '"runs": runs[:-1]'),
    ),
    dict(
        name="the best seed for the median in the summary",
        task="record",
        cell="record-code",
        swap=(
            "summary(runs)",
            '{arm: row | {"median": row["lowest"]} for arm, row in summary(runs).items()}',
        ),
    ),
    dict(
        name="tuning runs in the summary",
        task="record",
        cell="record-code",
        swap=("summary(runs)", 'summary([run | {"stage": "test"} for run in runs])'),
    ),
    dict(
        name="a verdict by wish",
        task="record",
        cell="record-code",
        swap=('verdict(gains(runs, plan["criterion"]), plan["criterion"])', '"not reproduced"'),
    ),
    dict(
        name="a rate by wish",
        task="record",
        cell="record-code",
        swap=('best_rate(runs, arm, plan["criterion"]["better"]) for arm', "0.1 for arm"),
    ),
    dict(
        name="a tie with a treatment tuned at the edge",
        task="record",
        cell="seal-code",
        source=TIED_PLAN,
    ),
    dict(
        name="a ratio of a metric that can be negative",
        task="record",
        cell="run-once-code",
        swap=(
            "return steps_to(0.9, model, lr, seed, 300)",
            "return steps_to(0.9, model, lr, seed, 300) - 60",
        ),
    ),
    dict(name="no record", task="record", cell="record-code", source="record = {}"),
]

OTHER_GAINS = """
def gains(runs, criterion):
    def value(arm, seed):
        for run in runs:
            if (run["stage"], run["arm"], run["seed"]) == ("test", arm, seed):
                return run["value"]

    seeds = sorted({run["seed"] for run in runs if run["stage"] == "test"})
    result = []
    for seed in seeds:
        t, b = value("treatment", seed), value("baseline", seed)
        if t is None:
            result.append(float("-inf"))
        elif b is None:
            result.append(float("inf"))
        elif criterion["compare"] == "ratio":
            sign = 1 if criterion["better"] == "higher" else -1
            result.append(np.exp(sign * (np.log(t) - np.log(b))))
        else:
            result.append((t - b) * (1 if criterion["better"] == "higher" else -1))
    return np.array(result)
"""

OTHER_VERDICT = """
import statistics

def verdict(gains, criterion):
    margin, gains = criterion["margin"], list(gains)
    if criterion["over"] == "median":
        gains = [statistics.median(gains)]
    if criterion["must"] == "be at least":
        return "holds" if min(gains) >= margin else "not reproduced"
    for gain in gains:
        if criterion["compare"] == "difference" and abs(gain) > margin:
            return "not reproduced"
        if criterion["compare"] == "ratio" and (gain <= 0 or max(gain, 1 / gain) > margin):
            return "not reproduced"
    return "holds"
"""

OTHER_BEST_RATE = """
def best_rate(runs, arm, better):
    mine = [run for run in runs if run["arm"] == arm and run["stage"] == "tuning"]
    rates = np.array(sorted({run["lr"] for run in mine}))
    failures = np.array([sum(r["failed"] is not None for r in mine if r["lr"] == lr) for lr in rates])
    left = rates[failures == failures.min()]
    sums = []
    for lr in left:
        there = [r["value"] for r in mine if r["lr"] == lr and r["value"] is not None]
        sums.append(np.mean(there) if there else 0)
    return left[np.argmin(sums) if better == "lower" else np.argmax(sums)]
"""

AMENDED_PLAN = """
plan = dict(
    claim="One batch norm behind the last of six hidden layers is ten times as fast as an early one.",
    treatment="six hidden layers of 48 units, batch norm behind the sixth",
    baseline="the same network, batch norm behind the third",
    metric="steps until 90 % of 512 training digits are right",
    criterion=dict(better="lower", compare="ratio", must="be at least", margin=10, over="median"),
    rates=dict(treatment=[0.1, 0.3, 1], baseline=[0.1, 0.3, 1]),
    tuning_seeds=[1],
    test_seeds=[2, 3, 4],
)
SEAL = seal(plan)
AMENDED = [{"seal": "e087e2d1c5b9", "why": "the class agreed on one claim for all"}]
"""

EQUIVALENTS = [
    dict(name="gains by logarithms, as an array", cell="gains-code", source=OTHER_GAINS),
    dict(name="verdict with statistics.median", cell="verdict-code", source=OTHER_VERDICT),
    dict(name="best rate with NumPy", cell="best-rate-code", source=OTHER_BEST_RATE),
    dict(
        name="runs in another order",
        cell="record-code",
        swap=('"runs": runs', '"runs": runs[::-1]'),
    ),
    dict(name="an amended plan, not reproduced", cell="seal-code", source=AMENDED_PLAN),
]
