"""The training loop: deterministic, the same alone and stacked, and safe against divergence."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from normlab.data import Data, linear_teacher
from normlab.layers import BatchNorm1d, GhostBatchNorm1d, GroupNorm, LayerNorm, LpBatchNorm
from normlab.models import MLP, VGG, DeepLinear, RowRNN
from normlab.stack import Stack, can_stack, can_vmap
from normlab.train import batches, train


@pytest.fixture(scope="module")
def data():
    """Two noisy classes in six dimensions, float64."""
    torch.manual_seed(0)
    y = torch.arange(96) % 2
    x = torch.randn(96, 6, dtype=torch.float64) + 1.5 * y[:, None]
    parts = (x[:64], y[:64], x[64:], y[64:])
    return Data(*parts, classes=("0", "1"), name="toy", sha256="0" * 64)


def nets(norm, seeds=(0, 1, 2), **options):
    return [MLP((6, 5, 4, 2), norm=norm, seed=s, **options).double() for s in seeds]


NORMS = {
    "none": "none",
    "batch": "batch",
    "torch.batch": "torch.batch",
    "lp": partial(LpBatchNorm, p=1, reading="raw"),
    "no affine": partial(BatchNorm1d, affine=False),
    "cumulative": partial(BatchNorm1d, momentum=None),
    "ghost": partial(GhostBatchNorm1d, group_size=8),
    "layer": "layer",
    "torch.layer": "torch.layer",
    "layer, no shift": partial(LayerNorm, bias=False),
    "rms": "rms",
    "group": partial(GroupNorm, 1),
    "torch.group": partial(nn.GroupNorm, 1),
    "weight": "weight",
    "mean-only": "mean-only",
    "cosine": "cosine",
    "centered cosine": "centered cosine",
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_stack_gives_each_replica_what_it_gets_alone(data, norm, batch_size):
    options = {"steps": 12, "batch_size": batch_size, "eval_every": 4, "weight_decay": 0.01}
    together, alone = nets(norm), nets(norm)
    assert can_stack(together)
    runs = train(together, data, lr=[0.1, 0.3, 0.5], seed=[5, 6, 7], **options)
    for model, twin, run, lr, seed in zip(
        alone, together, runs, (0.1, 0.3, 0.5), (5, 6, 7), strict=True
    ):
        single = train(model, data, lr=lr, seed=seed, **options)
        assert run.steps == single.steps == [0, 4, 8, 12]
        for name in ("batch_loss", "train_loss", "test_loss", "train_accuracy", "test_accuracy"):
            assert getattr(run, name) == pytest.approx(getattr(single, name), abs=1e-10)
        torch.testing.assert_close(twin.state_dict(), model.state_dict())


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_recurrent_networks_train_together_as_they_do_alone(data, cell, norm):
    def build():
        options = {"hidden": 4, "classes": 2, "cell": cell, "norm": norm}
        return [RowRNN(3, 2, seed=s, **options).double() for s in (0, 1, 2)]

    together, alone, options = build(), build(), {"steps": 6, "batch_size": 16}
    assert can_vmap(together)
    runs = train(together, data, lr=[0.1, 0.3, 1e9], seed=[5, 6, 7], **options)
    for model, twin, run, lr, seed in zip(
        alone, together, runs, (0.1, 0.3, 1e9), (5, 6, 7), strict=True
    ):
        single = train(model, data, lr=lr, seed=seed, **options)
        assert run.diverged_at == single.diverged_at
        if run.diverged_at is None:
            assert run.batch_loss == pytest.approx(single.batch_loss, abs=1e-9)
            assert run.test_loss == pytest.approx(single.test_loss, abs=1e-9)
            torch.testing.assert_close(twin.state_dict(), model.state_dict())


def test_recurrent_networks_of_different_kinds_do_not_train_together():
    assert not can_vmap([RowRNN(hidden=4), RowRNN(hidden=5)])
    assert not can_vmap([RowRNN(norm="layer"), RowRNN(norm="batch")])
    assert not can_vmap([VGG(11, 1), VGG(11, 1)])


@pytest.mark.parametrize("optimizer", ["momentum", "rmsprop", "adam"])
def test_other_optimizers_stack_too_and_equal_torch(data, optimizer):
    together, alone = nets("batch"), nets("batch")
    train(together, data, lr=0.01, steps=6, optimizer=optimizer)
    make = {
        "momentum": partial(torch.optim.SGD, momentum=0.9),
        "rmsprop": torch.optim.RMSprop,
        "adam": torch.optim.Adam,
    }[optimizer]
    for model, twin in zip(alone, together, strict=True):
        updater = make(model.parameters(), lr=0.01)
        for _ in range(6):
            updater.zero_grad()
            nn.functional.cross_entropy(model(data.x_train), data.y_train).backward()
            updater.step()
        torch.testing.assert_close(twin.state_dict(), model.state_dict())


def test_plain_sgd_is_the_textbook_update(data):
    model, twin = nets("batch", (0,)) + nets("batch", (0,))
    train(model, data, lr=0.2, steps=1, weight_decay=0.1)
    nn.functional.cross_entropy(twin(data.x_train), data.y_train).backward()
    for after, before in zip(model.parameters(), twin.parameters(), strict=True):
        expected = before - 0.2 * (before.grad + 0.1 * before)
        torch.testing.assert_close(after, expected)


def test_a_regression_descends_the_mean_of_the_squared_errors():
    data, rates = linear_teacher(n=40, test=20, features=4, outputs=4), (1e-3, 1e-2)
    plain = [DeepLinear(width=4, depth=3, norm="batch", seed=1) for _ in rates]
    for model, lr in zip(plain, rates, strict=True):
        for _ in range(5):
            errors = (model(data.x_train) - data.y_train).square()
            model.zero_grad()
            (errors.sum() / 40).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(lr * p.grad)
    models = [DeepLinear(width=4, depth=3, norm="batch", seed=1) for _ in rates]
    runs = train(models, data, lr=rates, steps=5)
    for model, expected, run in zip(models, plain, runs, strict=True):
        torch.testing.assert_close(model[0].weight, expected[0].weight)
        error = (model.eval()(data.x_test) - data.y_test).square().sum().item() / 20
        assert run.test_loss[-1] == pytest.approx(error, rel=1e-5)
        assert math.isnan(run.test_accuracy[-1]) and run.train_loss[-1] < run.train_loss[0]


def test_fast_changes_nothing_on_a_cpu(data):
    runs = [train(nets("batch")[0], data, lr=0.1, steps=5, fast=fast) for fast in (False, True)]
    assert runs[0].batch_loss == runs[1].batch_loss


def test_the_same_seed_gives_the_same_run_and_another_seed_another(data):
    def once(seed):
        return train(nets("batch", (0,))[0], data, lr=0.1, steps=10, batch_size=8, seed=seed)

    assert once(3).batch_loss == once(3).batch_loss
    assert once(3).batch_loss != once(4).batch_loss


def test_dropout_is_reproducible_and_leaves_the_global_generator_alone(data):
    def once():
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 2)).double()
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(0.1)
        return train(model, data, lr=0.1, steps=5, seed=1).batch_loss

    torch.manual_seed(0)
    first = once()
    after = torch.rand(1)
    torch.manual_seed(0)
    nn.Linear(6, 8), nn.Linear(8, 2)  # what once() draws to build its layers
    assert torch.equal(after, torch.rand(1))
    assert once() == first


def test_a_diverged_replica_stops_and_the_others_do_not_notice(data):
    healthy = train(nets("none", (0,))[0], data, lr=0.1, steps=30)
    runs = train(nets("none"), data, lr=[0.1, 1e6, 0.1], steps=30)
    assert runs[0].diverged_at is None and runs[2].diverged_at is None
    assert runs[0].batch_loss == pytest.approx(healthy.batch_loss, abs=1e-10)
    dead = runs[1]
    assert 1 < dead.diverged_at <= 30
    assert all(map(math.isnan, dead.batch_loss[dead.diverged_at - 1 :]))
    assert not any(map(math.isnan, dead.batch_loss[: dead.diverged_at - 1]))
    assert math.isnan(dead.train_accuracy[-1]) and dead.steps_to(0.0) == 0.0


def test_when_all_diverge_the_run_still_has_every_entry(data):
    run = train(nets("none", (0,))[0], data, lr=1e6, steps=30, eval_every=10)
    assert run.diverged_at is not None
    assert run.steps == [0, 10, 20, 30] and len(run.batch_loss) == 30
    assert math.isnan(run.test_loss[-1])


def test_frozen_parameters_stay(data):
    models = nets("batch")
    for model in models:
        model[2].weight.requires_grad_(False)
    train(models, data, lr=0.5, steps=5)
    assert all(torch.equal(m[2].weight, torch.ones(5).double()) for m in models)
    assert all(m[2].bias.abs().max() > 0 for m in models)


def test_training_goes_down_and_evaluation_counts_what_it_says(data):
    model = nets("batch", (0,))[0]
    run = train(model, data, lr=0.3, steps=100, batch_size=16, eval_every=50)
    assert run.train_loss[-1] < run.train_loss[0] / 2
    with torch.no_grad():
        logits = model.eval()(data.x_test)
    assert run.test_accuracy[-1] == pytest.approx((logits.argmax(1) == data.y_test).double().mean())
    expected = nn.functional.cross_entropy(logits, data.y_test).item()
    assert run.test_loss[-1] == pytest.approx(expected)
    assert run.steps_to(2.0) == math.inf


def test_convolutional_networks_train_one_by_one():
    torch.manual_seed(0)
    y = torch.arange(32) % 2
    x = torch.randn(32, 1, 8, 8) + y.view(-1, 1, 1, 1)
    data = Data(x[:24], y[:24], x[24:], y[24:], classes=("0", "1"), name="toy", sha256="0" * 64)
    models = [VGG((1, "M", 2), 4, "batch", channels=1, classes=2, seed=s) for s in (0, 1)]
    runs = train(models, data, lr=0.1, steps=30)
    assert all(run.batch_loss[-1] < run.batch_loss[0] / 2 for run in runs)


def test_after_step_sees_every_step(data):
    seen = []
    train(nets("none", (0,))[0], data, lr=0.1, steps=4, after_step=seen.append)
    assert seen == [1, 2, 3, 4]


def test_batches_are_a_new_order_every_epoch_and_drop_the_short_last_one():
    source = batches(10, 4, seed=0)
    epochs = [torch.cat([next(source), next(source)]) for _ in range(2)]
    assert all(len(set(epoch.tolist())) == 8 for epoch in epochs)
    assert not torch.equal(*epochs)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr": [0.1, 0.2]}, r"lr expected one value or 3 \(one per model\), got 2"),
        ({"lr": 0.1, "seed": [1]}, "seed expected one value or 3"),
        ({"lr": 0.1, "optimizer": "sgdd"}, "optimizer expected one of sgd, momentum"),
        ({"lr": 0.1, "optimizer": "adam", "weight_decay": 0.1}, "weight_decay expected"),
        ({"lr": 0.1, "batch_size": 65}, "batch_size expected at most 64"),
    ],
)
def test_bad_arguments_are_refused_with_what_was_expected(data, options, says):
    with pytest.raises(ValueError, match=says):
        train(nets("none"), data, steps=1, **options)


def test_stack_refuses_networks_that_differ_or_that_it_does_not_know():
    with pytest.raises(ValueError, match="equal nn.Sequential networks"):
        Stack([MLP((4, 3, 2)), MLP((4, 5, 2))])
    with pytest.raises(ValueError, match="train them one by one"):
        Stack([VGG(11, 1), VGG(11, 1)])
