"""Layer, RMS, group and instance norm against torch's: numbers, gradients, state, types, errors."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from normlab.layers import (
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    LayerNorm,
    LayerNorm2d,
    RMSNorm,
    RMSNorm2d,
    normalize,
)

#: name -> (ours, torch's, positional arguments, shape of an input)
LAYERS = {
    "layer": (LayerNorm, nn.LayerNorm, (6,), (8, 6)),
    "layer, two axes": (LayerNorm, nn.LayerNorm, ([5, 6],), (4, 3, 5, 6)),
    "rms": (RMSNorm, nn.RMSNorm, (6,), (8, 2, 6)),
    "rms, two axes": (RMSNorm, nn.RMSNorm, ([5, 6],), (4, 5, 6)),
    "group": (GroupNorm, nn.GroupNorm, (2, 6), (4, 6, 5, 3)),
    "group, no position": (GroupNorm, nn.GroupNorm, (2, 12), (4, 12)),
    "group, one image": (GroupNorm, nn.GroupNorm, (6, 6), (1, 6, 4)),
    "instance 1d": (InstanceNorm1d, nn.InstanceNorm1d, (3,), (4, 3, 7)),
    "instance 1d, one sample": (InstanceNorm1d, nn.InstanceNorm1d, (3,), (3, 7)),
    "instance 2d": (InstanceNorm2d, nn.InstanceNorm2d, (3,), (4, 3, 5, 2)),
    "instance 2d, one sample": (InstanceNorm2d, nn.InstanceNorm2d, (3,), (3, 5, 2)),
}
OPTIONS = {
    "layer": ({}, {"elementwise_affine": False}, {"bias": False}, {"eps": 0.1}),
    "rms": ({}, {"elementwise_affine": False}, {"eps": 0.1}),
    "group": ({}, {"affine": False}, {"bias": False}, {"eps": 0.1}),
    "instance": (
        {},
        {"affine": True},
        {"affine": True, "bias": False},
        {"track_running_stats": True, "momentum": 0.3},
        {"track_running_stats": True, "affine": True, "momentum": None},
        {"eps": 0.1},
    ),
}
CASES = [
    pytest.param(name, options, id=f"{name}-{','.join(f'{k}={v}' for k, v in options.items())}")
    for name in LAYERS
    for options in OPTIONS[name.split(",")[0].split(" ")[0]]
]
#: how much farther than torch we may be from the float64 result, relative to its largest entry
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def pair(name: str, dtype=torch.float64, **options):
    """Return our layer and torch's with equal random parameters, and an input."""
    ours, theirs, arguments, shape = LAYERS[name]
    mine = ours(*arguments, dtype=dtype, **options)
    reference = theirs(*arguments, dtype=dtype, **options)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in reference.parameters():
            p.normal_()
    mine.load_state_dict(reference.state_dict())
    return mine, reference, (3 * torch.randn(shape) + 2).to(dtype)


def outcome(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Run a layer forward and backward; return output, gradients and state."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    upstream = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    y.backward(upstream)
    return [y.detach(), leaf.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_output_gradients_and_state_equal_torch(name, options, dtype):
    mine, reference, x = pair(name, dtype, **options)
    exact = copy.deepcopy(reference).double()
    for _ in range(2):  # twice: running statistics go on from where they were
        results = outcome(mine, x), outcome(reference, x), outcome(exact, x.double())
        for a, b, truth in zip(*results, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            off, allowed = ((value.double() - truth.double()).abs().max() for value in (a, b))
            assert off <= allowed + TOLERANCE[dtype] * max(1.0, truth.abs().max().item())
        for layer in (mine, reference, exact):
            layer.zero_grad()
    mine.eval(), reference.eval()
    torch.testing.assert_close(mine(x), reference(x), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize(("name", "options"), CASES)
def test_state_dict_attributes_and_reset_are_torchs(name, options):
    mine, reference, _ = pair(name, **options)
    state = {key: value.shape for key, value in reference.state_dict().items()}
    assert {key: value.shape for key, value in mine.state_dict().items()} == state
    reference.load_state_dict(mine.state_dict())
    for attribute in vars(reference):
        if not attribute.startswith("_") and attribute != "training":
            assert getattr(mine, attribute) == getattr(reference, attribute), attribute
    assert hasattr(mine, "bias") == hasattr(reference, "bias")
    mine.reset_parameters(), reference.reset_parameters()
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[key], value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("layer", (8, 5)),
        ("rms", (8, 5)),
        ("layer, two axes", (5,)),
        ("group", (4, 5, 3)),
        ("group", (6,)),
        ("instance 1d", (4, 3, 1)),
        ("instance 1d", (3,)),
        ("instance 2d", (4, 3, 1, 1)),
        ("instance 2d", (3, 5)),
    ],
)
def test_a_shape_that_torch_refuses_is_refused_with_the_same_kind_of_error(name, shape):
    mine, reference, _ = pair(name)
    x = torch.ones(shape, dtype=torch.float64)
    with pytest.raises((RuntimeError, ValueError, IndexError)) as theirs:
        reference(x)
    with pytest.raises((RuntimeError, ValueError, IndexError)) as ours:
        mine(x)
    assert ours.type is theirs.type
    assert str(list(shape)) in str(ours.value) or str(shape) in str(ours.value)


def test_groups_must_divide_channels_and_hold_more_than_one_value():
    with pytest.raises(ValueError, match="num_groups=4 divides, got 6"):
        GroupNorm(4, 6)
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        GroupNorm(6, 6)(torch.ones(1, 6))
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        nn.GroupNorm(6, 6)(torch.ones(1, 6))


def test_instance_norm_refuses_another_number_of_channels():
    with pytest.raises(ValueError, match="expected 3 channels"):
        InstanceNorm2d(3)(torch.ones(2, 4, 5, 5))


@pytest.mark.parametrize("name", LAYERS)
def test_vmap_over_layers_equals_a_loop(name):
    options = {"affine": True} if name.startswith("instance") else {}
    layers = []
    for seed in range(3):
        layer, _, x = pair(name, **options)
        torch.manual_seed(seed)
        with torch.no_grad():
            for p in layer.parameters():
                p.normal_()
        layers.append(layer)
    parameters, buffers = stack_module_state(layers)

    def one(p, b, part):
        return functional_call(layers[0], (p, b), (part,))

    inputs = torch.stack([x, 2 * x, x - 1])
    together = vmap(one)(parameters, buffers, inputs)
    apart = torch.stack([layer(part) for layer, part in zip(layers, inputs, strict=True)])
    torch.testing.assert_close(together, apart)


def test_instance_norm_with_running_statistics_works_under_vmap():
    layers = [InstanceNorm1d(3, track_running_stats=True).double() for _ in range(2)]
    parameters, buffers = stack_module_state(layers)
    x = torch.randn(2, 4, 3, 7, dtype=torch.float64)
    vmap(lambda p, b, part: functional_call(layers[0], (p, b), (part,)))(parameters, buffers, x)
    for layer, part, mean in zip(layers, x, buffers["running_mean"], strict=True):
        layer(part)
        torch.testing.assert_close(mean, layer.running_mean)


def test_layers_per_position_are_the_same_layer_at_every_pixel():
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    for flat, image in ((LayerNorm, LayerNorm2d), (RMSNorm, RMSNorm2d)):
        a, b = flat(5, eps=1e-5).double(), image(5, eps=1e-5).double()
        with torch.no_grad():
            a.weight.normal_()
        b.load_state_dict(a.state_dict())
        torch.testing.assert_close(b(x)[1, :, 2, 3], a(x[1, :, 2, 3]))


def test_normalize_over_any_axes():
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    y = normalize(x, (0, 2), eps=0.0)
    torch.testing.assert_close(y.mean((0, 2)), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(y.var((0, 2), correction=0), torch.ones(3, dtype=torch.float64))
    z = normalize(x, [1], eps=0.0, center=False)
    torch.testing.assert_close(z.square().mean(1), torch.ones(4, 5, dtype=torch.float64))
