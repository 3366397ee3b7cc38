"""Weight norm and cosine norm: against torch's functions, at zero, in networks, under vmap."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations, parametrize

from normlab.layers import (
    CosineConv2d,
    CosineLinear,
    MeanOnlyBatchNorm,
    cosine,
    init_by_data,
    weight_norm,
)
from normlab.models import MLP, VGG

D = torch.float64
MODULES = {
    "linear": (lambda: nn.Linear(5, 4, dtype=D), (7, 5)),
    "no bias": (lambda: nn.Linear(5, 4, bias=False, dtype=D), (7, 5)),
    "conv": (lambda: nn.Conv2d(3, 4, 3, padding=1, dtype=D), (2, 3, 6, 5)),
}


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("name", MODULES)
def test_weight_norm_equals_torch_in_output_gradients_and_state(name, dim):
    build, shape = MODULES[name]
    plain = build()
    mine = weight_norm(copy.deepcopy(plain), dim=dim)
    reference = parametrizations.weight_norm(copy.deepcopy(plain), dim=dim)
    x = torch.randn(shape, dtype=D, requires_grad=True)
    torch.testing.assert_close(mine(x), plain(x))  # nothing changes when it is put on
    with torch.no_grad():
        for p in reference.parameters():
            p.normal_()
    mine.load_state_dict(reference.state_dict())
    results = []
    for layer in (mine, reference):
        x.grad = None
        y = layer(x)
        y.square().sum().backward()
        results.append([y, x.grad, *(p.grad for p in layer.parameters())])
    assert len(results[0]) == len(results[1]) >= 4
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_assigning_a_weight_keeps_it():
    layer = weight_norm(nn.Linear(3, 2, dtype=D))
    layer.weight = torch.arange(6, dtype=D).reshape(2, 3) + 1
    torch.testing.assert_close(layer.weight, torch.arange(6, dtype=D).reshape(2, 3) + 1)
    lengths = layer.parametrizations.weight.original0.flatten()
    torch.testing.assert_close(lengths, torch.tensor([14.0, 77.0], dtype=D).sqrt())


@pytest.mark.parametrize("norm", ["weight", "mean-only"])
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda norm: MLP((6, 8, 8, 3), norm=norm), (64, 6)),
        (lambda norm: VGG((1, "M", 2), 4, norm=norm), (16, 3, 8, 8)),
    ],
)
def test_init_by_data_gives_every_normed_layer_unit_variance(norm, build, shape):
    torch.manual_seed(0)
    model, x = build(norm).double(), 5 * torch.randn(shape, dtype=D) + 1
    init_by_data(model, x)
    checked = 0
    for layer in model:
        x = layer(x)
        if parametrize.is_parametrized(layer, "weight"):
            axes = [axis for axis in range(x.dim()) if axis != 1]
            torch.testing.assert_close(x.var(axes, correction=0), torch.ones(x.shape[1], dtype=D))
            if norm == "weight":
                torch.testing.assert_close(x.mean(axes), torch.zeros(x.shape[1], dtype=D))
            checked += 1
    assert checked == 2


def test_init_by_data_leaves_no_hook_and_refuses_what_it_cannot_do():
    model = nn.Sequential(weight_norm(nn.Linear(3, 2)))
    init_by_data(model, torch.randn(10, 3))
    assert not model[0]._forward_hooks
    with pytest.raises(ValueError, match="expected a model with weight-normed layers"):
        init_by_data(nn.Linear(3, 2), torch.randn(10, 3))
    with pytest.raises(ValueError, match="2 constant ones"):
        init_by_data(model, torch.ones(10, 3))
    assert not model[0]._forward_hooks


def test_mean_only_batch_norm_subtracts_the_batch_mean_and_keeps_a_running_one():
    x = torch.randn(6, 3, 4, dtype=D) + 5
    layer = MeanOnlyBatchNorm(3, momentum=0.25, dtype=D)
    reference = nn.BatchNorm1d(3, momentum=0.25, dtype=D)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    reference(x)
    y = layer(x)
    torch.testing.assert_close(y.mean((0, 2)), layer.bias)
    torch.testing.assert_close(y.var((0, 2)), x.var((0, 2)))
    torch.testing.assert_close(layer.running_mean, reference.running_mean)
    expected = x - (layer.running_mean - layer.bias)[:, None]
    torch.testing.assert_close(layer.eval()(x), expected)
    with pytest.raises(ValueError, match=r"\(N, 3, \.\.\.\), got \(6, 4\)"):
        layer(torch.ones(6, 4, dtype=D))
    with pytest.raises(ValueError, match="more than 1 value"):
        layer.train()(torch.ones(1, 3, dtype=D))


def test_cosine_equals_torch_and_pearson_equals_numpy():
    x, w = torch.randn(7, 5, dtype=D) + 1, torch.randn(4, 5, dtype=D)
    expected = F.cosine_similarity(x[:, None], w[None], dim=-1)
    torch.testing.assert_close(cosine(x, w), expected)
    expected = torch.corrcoef(torch.cat([x, w]))[:7, 7:]
    torch.testing.assert_close(cosine(x, w, centered=True), expected)
    long = 1e3 * x
    torch.testing.assert_close(cosine(long, 1e-3 * w), cosine(x, w))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1)])
def test_cosine_conv_equals_the_cosine_of_every_patch(centered, stride, padding):
    torch.manual_seed(0)
    layer = CosineConv2d(
        3, 4, 3, stride, padding, scale=2.0, learn_scale=True, centered=centered, dtype=D
    )
    with torch.no_grad():
        layer.bias.normal_()
    x = torch.randn(2, 3, 7, 5, dtype=D)
    y = layer(x)
    assert y.shape == F.conv2d(x, layer.weight, stride=stride, padding=padding).shape
    patches = F.pad(x, [padding] * 4).unfold(2, 3, stride).unfold(3, 3, stride)
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3)  # (N, H', W', C * 3 * 3)
    expected = 2 * cosine(patches, layer.weight.flatten(1), centered) + layer.bias
    torch.testing.assert_close(y, expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("centered", [False, True])
def test_zero_vectors_give_the_shift_and_finite_gradients(centered):
    layers = (
        (CosineLinear(5, 4, centered=centered), torch.zeros(2, 5)),
        (CosineConv2d(3, 4, 3, padding=1, centered=centered), torch.zeros(2, 3, 6, 6)),
    )
    for layer, x in layers:
        with torch.no_grad():
            layer.bias.fill_(0.5)
            layer.weight[0] = 0
        leaf = x.requires_grad_()
        y = layer(leaf)
        assert (y == 0.5).all()
        y.sum().backward()
        assert leaf.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_the_scale_is_learned_only_if_asked_for():
    fixed, learned = CosineLinear(5, 4, scale=3.0), CosineLinear(5, 4, scale=3.0, learn_scale=True)
    assert "scale" not in dict(fixed.named_parameters())
    assert learned.scale.requires_grad and (learned.scale == 3).all()
    learned.load_state_dict(fixed.state_dict())
    assert CosineLinear(5, 4, bias=False).bias is None
    with pytest.raises(RuntimeError, match="expected 5 features"):
        fixed(torch.ones(2, 6))


@pytest.mark.parametrize(
    "build",
    [
        lambda: MLP((5, 4, 3), norm="weight")[1:],
        lambda: MeanOnlyBatchNorm(5),
        lambda: CosineLinear(5, 4, learn_scale=True),
        lambda: CosineLinear(5, 4, centered=True),
    ],
)
def test_vmap_over_layers_equals_a_loop(build):
    layers = [build() for _ in range(3)]
    parameters, buffers = stack_module_state(layers)
    x = torch.randn(3, 6, 5)
    base = copy.deepcopy(layers[0])
    together = vmap(lambda p, b, part: functional_call(base, (p, b), (part,)))(
        parameters, buffers, x
    )
    apart = torch.stack([layer(part) for layer, part in zip(layers, x, strict=True)])
    torch.testing.assert_close(together, apart)


def test_cosine_conv_under_vmap():
    for centered in (False, True):
        layers = [CosineConv2d(2, 3, 3, padding=1, centered=centered) for _ in range(2)]
        parameters, buffers = stack_module_state(layers)
        x = torch.randn(2, 4, 2, 5, 5)
        base = copy.deepcopy(layers[0])
        together = vmap(lambda p, b, part, base=base: functional_call(base, (p, b), (part,)))(
            parameters, buffers, x
        )
        apart = torch.stack([layer(part) for layer, part in zip(layers, x, strict=True)])
        torch.testing.assert_close(together, apart)
