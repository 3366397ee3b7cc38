"""Noisy and lp batch norm: formulas, distributions, modes, errors."""

import math

import pytest
import torch
from torch import nn

from normlab.layers import BatchNoise, BatchNorm2d, LpBatchNorm, NoisyBatchNorm, make_norm

PS = [1, 2, 3, math.inf]


def image(seed=0, n=16, c=3, size=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, size, size, generator=generator, dtype=torch.float64)
    return 3 * x + torch.tensor([0.0, 2.0, -7.0], dtype=torch.float64).view(1, 3, 1, 1)


@pytest.mark.parametrize("reading", ["centered", "raw"])
@pytest.mark.parametrize("p", PS)
def test_lp_formula(p, reading):
    x = image()
    layer = LpBatchNorm(3, p, reading, eps=0.1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, -0.5]))
        layer.bias.copy_(torch.tensor([0.0, 1.0, 5.0]))
    y = layer(x)
    for c in range(3):
        values = x[:, c].flatten()
        centered = values - values.mean()
        part = (centered if reading == "centered" else values).abs()
        length = part.max() if p == math.inf else ((part**p).sum() / len(part)) ** (1 / p)
        expected = centered / math.sqrt(length**2 + 0.1) * layer.weight[c] + layer.bias[c]
        torch.testing.assert_close(y[:, c].flatten(), expected)


def test_centered_l2_is_batch_norm_forward_and_backward():
    ours, theirs = LpBatchNorm(3, 2).double(), nn.BatchNorm2d(3).double()
    x, weights = image().requires_grad_(), image(1)
    grads = []
    for layer in (ours, theirs):
        y = layer(x)
        grads.append(
            (y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()]))
        )
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reading", ["centered", "raw"])
@pytest.mark.parametrize("p", PS)
def test_lp_gradient(p, reading):
    layer = LpBatchNorm(3, p, reading).double()
    x = image(n=3, size=2).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("p", PS)
def test_lp_evaluation_uses_running_statistics(p):
    layer = LpBatchNorm(3, p, momentum=1.0).double()
    x = image()
    y = layer(x)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    torch.testing.assert_close(layer.eval()(x), y)  # momentum 1: the last batch is what is stored
    shifted = layer(x + 1)
    scale = (layer.running_var + layer.eps).sqrt().view(1, 3, 1, 1)
    torch.testing.assert_close(shifted, y + 1 / scale)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("p", PS)
def test_lp_survives_a_dead_channel(p):
    x = image()
    x[:, 1] = 0
    x.requires_grad_()
    for reading in ("centered", "raw"):
        y = LpBatchNorm(3, p, reading).double()(x)
        (grad,) = torch.autograd.grad(y.square().sum(), x)
        assert y.isfinite().all() and grad.isfinite().all()


def test_noise_has_the_moments_of_algorithm_1():
    torch.manual_seed(0)
    noise = BatchNoise(4000)
    zeros = noise(torch.zeros(200, 4000))  # a = 0 leaves m
    mu = zeros.mean(0)
    inside = zeros - mu
    assert -0.5 - 0.03 < mu.min() < -0.49 and 0.49 < mu.max() < 0.5 + 0.03
    assert abs(mu.std() - 1 / math.sqrt(12)) < 0.01  # U(-0.5, 0.5)
    assert inside.abs().max() < 0.1 + 0.03 and abs(inside.std() - 0.2 / math.sqrt(12)) < 0.001
    torch.manual_seed(1)
    m = noise(torch.zeros(200, 4000))
    torch.manual_seed(1)
    s = noise(torch.ones(200, 4000)) - m  # the same draws: a = 1 leaves s + m
    sigma = s.mean(0)
    assert abs(sigma.mean() - 1.125) < 0.01 and abs(sigma.std() - 0.25 / math.sqrt(12)) < 0.01
    assert abs((s - sigma).std() - 0.1) < 0.001
    kurtosis = ((s - sigma) / 0.1).pow(4).mean()
    assert abs(kurtosis - 3) < 0.1  # normal, not uniform (1.8)


def test_noise_is_per_channel_and_per_position():
    torch.manual_seed(0)
    m = BatchNoise(2)(torch.zeros(8, 2, 6, 6))
    values = m.transpose(0, 1).flatten(1)
    assert values.unique(dim=1).shape == values.shape  # no two positions share a draw
    spread, between = values.std(1).max(), (values.mean(1)[0] - values.mean(1)[1]).abs()
    assert between > 2 * spread  # but all positions of a channel share their mean


def test_noise_is_drawn_anew_in_training_and_absent_in_evaluation():
    layer, x = NoisyBatchNorm(3), image().float()
    assert not torch.equal(layer(x), layer(x))
    noise = BatchNoise(3).eval()
    assert torch.equal(noise(x), x)
    layer = NoisyBatchNorm(3, momentum=1.0)
    plain = BatchNorm2d(3, momentum=1.0)
    layer(x), plain(x)
    torch.testing.assert_close(layer.running_var, plain.running_var)  # the noise comes after
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x))


def test_noisy_batch_norm_is_batch_norm_then_noise():
    x = image().float()
    layer, plain = NoisyBatchNorm(3, 1, 2), BatchNorm2d(3)
    with torch.no_grad():
        for one in (layer, plain):
            one.weight.copy_(torch.tensor([1.0, 2.0, -0.5]))
    torch.manual_seed(0)
    y = layer(x)
    torch.manual_seed(0)
    torch.testing.assert_close(y, BatchNoise(3, 1, 2)(plain(x)))


@pytest.mark.parametrize(
    "name", ["noisy batch", "noise", "l1", "l2", "linf", "raw l1", "raw l2", "raw linf"]
)
def test_names(name):
    table, images = make_norm(name, 3, 0), make_norm(name, 3, 2)
    assert repr(table) == repr(images)
    assert table(torch.randn(4, 3)).shape == (4, 3) and images(image().float()).shape[1] == 3
    if "l" in name:
        assert table.reading == ("raw" if "raw" in name else "centered")
        assert str(table.p).replace(".0", "") in name.replace("linf", "inf")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LpBatchNorm(3, 0.5), "p >= 1"),
        (lambda: LpBatchNorm(3, math.nan), "p >= 1"),
        (lambda: LpBatchNorm(3, 2, "median"), "'centered' or 'raw'"),
        (lambda: BatchNoise(3, n_sigma=0.5), "n_sigma >= 1"),
        (lambda: NoisyBatchNorm(3, r_mu=-1), "r_mu"),
        (lambda: LpBatchNorm(3)(torch.zeros(1, 3)), "more than 1 value"),
        (lambda: LpBatchNorm(3)(torch.zeros(4, 2)), "3 channels"),
        (lambda: NoisyBatchNorm(3)(torch.zeros(4)), "N, C"),
        (lambda: BatchNoise(3)(torch.zeros(4, 2)), "3 channels"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
