"""The networks: shapes, initialization, and the norm each name stands for."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from normlab.layers import NORMS, WEIGHT_NORMS, BatchNorm1d, BatchNorm2d, make_norm
from normlab.models import MLP, VGG

PLAN = (1, "M", 2, 2)
SPATIAL = ("position", "instance", "torch.instance")


@pytest.mark.parametrize("norm", [*NORMS, *WEIGHT_NORMS])
def test_every_named_norm_builds_and_trains_in_both_networks(norm):
    x, vgg = torch.randn(8, 1, 8, 8), VGG(PLAN, width=2, norm=norm, channels=1)
    for model in (vgg,) if norm in SPATIAL else (vgg, MLP((64, 16, 16, 10), norm=norm)):
        y = model(x)
        assert y.shape == (8, 10)
        y.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_names_stand_for_the_layers_they_name():
    assert type(make_norm("batch", 3)) is BatchNorm1d
    assert type(make_norm("batch", 3, spatial=2)) is BatchNorm2d
    assert type(make_norm("torch.batch", 3, spatial=2)) is nn.BatchNorm2d
    assert make_norm(None, 3) is None
    assert make_norm(partial(BatchNorm1d, affine=False), 3).affine is False


def test_our_batch_norm_and_torch_give_the_same_network():
    torch.manual_seed(0)
    x = torch.randn(16, 3, 8, 8)
    for build in (partial(MLP, (192, 16, 10)), partial(VGG, 11, 2)):
        torch.testing.assert_close(build(norm="batch")(x), build(norm="torch.batch")(x))


@pytest.mark.parametrize("build", [partial(MLP, (64, 16, 16, 10)), partial(VGG, 11, 2)])
def test_weights_depend_on_the_seed_and_not_on_the_norm(build):
    def weights(model):
        return [p for p in model.parameters() if p.dim() > 1]

    plain, normed, other = (
        weights(build(norm=n, seed=s)) for n, s in (("none", 1), ("batch", 1), ("none", 2))
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, normed, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


@pytest.mark.parametrize(("activation", "gain"), [("relu", math.sqrt(2)), ("tanh", 1.0)])
def test_initial_std_is_gain_over_root_fan_in_times_scale(activation, gain):
    model = MLP((400, 500, 10), activation=activation, init_scale=3.0)
    assert model[1].weight.std().item() == pytest.approx(3 * gain / 20, rel=0.02)


def test_bias_stands_only_where_no_norm_takes_it_away():
    def has_bias(**options):
        return MLP((4, 3, 2), **options)[1].bias is not None

    assert has_bias(norm="none")
    assert not has_bias(norm="batch")
    assert has_bias(norm="batch", norm_after="a")
    assert has_bias(norm="batch", bias=True)
    assert VGG(11, 2, norm="batch")[0].bias is None
    assert MLP((4, 3, 2), norm="batch")[-1].bias is not None


def test_norm_after_a_stands_behind_the_activation():
    kinds = [type(layer).__name__ for layer in MLP((4, 3, 2), norm="batch", norm_after="a")]
    assert kinds == ["Flatten", "Linear", "ReLU", "BatchNorm1d", "Linear"]


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_has_as_many_weight_layers_as_its_name(depth):
    convs = [m for m in VGG(depth, width=1) if isinstance(m, nn.Conv2d)]
    assert len(convs) + 3 == depth  # the paper counts three fully connected layers; we have one


def test_vgg_takes_small_and_large_images():
    model = VGG(11, width=2, norm="batch").eval()
    for size in (1, 8, 28, 32):
        assert model(torch.randn(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: MLP((4, 3, 2), norm="bacth"), "norm expected one of none, batch"),
        (lambda: MLP((4, 3, 2), activation="gelu"), "activation expected one of relu"),
        (lambda: MLP((4, 3, 2), norm_after="b"), "norm_after expected 'z' or 'a'"),
        (lambda: MLP((4,)), "sizes expected at least"),
        (lambda: VGG(12), "depth expected one of 11, 13, 16, 19"),
        (lambda: VGG((1, "P")), "depth expected"),
    ],
)
def test_bad_arguments_are_refused_with_what_was_expected(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_a_slice_is_the_first_layers_themselves():
    model = MLP((4, 3, 2), norm="batch")
    x = torch.randn(5, 4)
    assert model[:2][1] is model[1]
    torch.testing.assert_close(model[:2](x), model[1](x))
