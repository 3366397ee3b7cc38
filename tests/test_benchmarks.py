"""The benchmark: both ways compute the same numbers, and its verdict judges what it says."""

import pytest
import torch

from normlab.experiments import benchmarks
from normlab.experiments.benchmarks import AIM, CONFIGS, ratios, verdicts
from normlab.train import batches


@pytest.fixture(scope="module")
def data():
    return benchmarks.load("quick")


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize(
    ("what", "network"),
    [
        ("training", "MLP 6x64"),
        ("training", "small VGG"),
        ("probe", "MLP 2x32"),
        ("probe", "small VGG"),
    ],
)
def test_both_ways_compute_the_same_numbers(data, what, network, norm):
    config = {"what": what, "network": network, "amount": 1, "norm": norm, "count": 2, "seed": 1}
    assert benchmarks.CHECKED > len(data.x_train) // 64  # more than one epoch
    assert benchmarks.difference(config, data) < benchmarks.SAME


def test_a_run_reports_the_ratio_of_the_speeds(data):
    found = benchmarks.run({**CONFIGS["quick"][-1], "count": 2}, data)
    ours, plain = (found[f"{way}_images_per_second"] for way in ("ours", "plain"))
    assert found["ratio"] == pytest.approx(ours / plain)


def test_a_difference_is_seen(data, monkeypatch):
    monkeypatch.setattr(
        benchmarks, "our_training", lambda models, *rest: torch.zeros(len(models), rest[2])
    )
    found = benchmarks.difference({**CONFIGS["quick"][0], "amount": 1}, data)
    assert found > 0.5
    assert not verdicts(made({}, difference=found))["benchmarks-same-numbers"][0]


def test_the_plain_order_is_that_of_the_package():
    order = benchmarks.Order(10, seed=3)
    ours = batches(10, 5, seed=3)
    for _ in range(3):
        assert list(order) == [int(i) for _ in range(2) for i in next(ours)]


def test_a_probe_leaves_the_networks_as_they_were(data):
    models = benchmarks.build({**CONFIGS["cpu"][-1], "norm": "none"})
    before = [p.detach().clone() for model in models for p in model.parameters()]
    benchmarks.plain_probe(models, data.x_train[:32], data.y_train[:32])
    after = [p for model in models for p in model.parameters()]
    assert all(map(torch.equal, before, after))


def made(special: dict, ratio=5.0, difference=0.0) -> list[dict]:
    """Return runs of the scale "cpu" with made-up ratios; ``special`` replaces some."""
    runs = []
    for config in CONFIGS["cpu"]:
        key = (config["what"], config["network"], config["norm"], config["seed"])
        found = {"ratio": special.get(key, special.get(key[:3], ratio)), "difference": difference}
        speeds = {"plain_images_per_second": 100.0, "ours_images_per_second": 500.0}
        runs.append({"config": config, "metrics": {**found, **speeds}, "seconds": 1.0})
    return runs


def test_the_verdict_is_the_median_of_every_small_net_and_the_text_names_the_range():
    one_slow = made({("training", "MLP 6x64", "batch", 2): 1.0})
    holds, text = verdicts(one_slow)["stack-four-times-faster"]
    assert holds
    assert "norm batch 5.0 times (1.0 to 5.0; 500 against 100 images per second)" in text
    holds, text = verdicts(made({("probe", "MLP 2x32", "batch"): AIM - 0.1}))[
        "probes-four-times-faster"
    ]
    assert not holds
    assert "MLP 2x32: norm none 5.0 times" in text and "norm batch 3.9 times" in text


def test_a_convolutional_network_is_reported_but_not_judged():
    holds, text = verdicts(made({("probe", "small VGG", "none"): 1.0}))["probes-four-times-faster"]
    assert holds and "small VGG: norm none 1.0 times" in text
    assert ratios(made({}), "probe", "small VGG")["none"] == [5.0] * 5
