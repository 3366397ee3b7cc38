"""Our batch norm against torch's: the same numbers, state, errors, in every mode and shape."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from normlab.layers import BatchNorm1d, BatchNorm2d, GhostBatchNorm1d, batch_norm

SHAPES = {
    "(N, C)": (BatchNorm1d, nn.BatchNorm1d, (8, 3)),
    "(N, C, L)": (BatchNorm1d, nn.BatchNorm1d, (6, 3, 5)),
    "(N, C, H, W)": (BatchNorm2d, nn.BatchNorm2d, (4, 3, 5, 2)),
}
OPTIONS = {
    "default": {},
    "no affine": {"affine": False},
    "no running stats": {"track_running_stats": False},
    "cumulative average": {"momentum": None},
    "momentum 0.3": {"momentum": 0.3},
    "large eps": {"eps": 0.1},
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}


def pair(ours, theirs, channels=3, dtype=torch.float64, **options):
    """Return our layer and torch's, with the same random scale and shift."""
    mine, reference = (
        ours(channels, dtype=dtype, **options),
        theirs(channels, dtype=dtype, **options),
    )
    if mine.affine:
        with torch.no_grad():
            for layer in (mine, reference):
                layer.weight.copy_(torch.linspace(0.5, 2, channels))
                layer.bias.copy_(torch.linspace(-1, 1, channels))
    return mine, reference


def both(mine, reference, x, upstream):
    """Run both layers forward and backward; return (output, input gradient, state) of each."""
    results = []
    for layer in (mine, reference):
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        y = layer(leaf)
        y.backward(upstream)
        grads = [p.grad for p in layer.parameters()]
        results.append((y.detach(), leaf.grad, *grads, *layer.state_dict().values()))
    return results


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_output_gradients_and_state_equal_torch(shape, options, dtype):
    ours, theirs, size = SHAPES[shape]
    mine, reference = pair(ours, theirs, dtype=dtype, **options)
    torch.manual_seed(0)
    for step in range(4):
        if step == 3:
            mine.eval(), reference.eval()
        x, upstream = torch.randn(size).to(dtype) * 2 + 1, torch.randn(size).to(dtype)
        for a, b in zip(*both(mine, reference, x, upstream), strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_inputs_with_mean_ten_thousand_lose_no_precision(dtype):
    """E[x^2] - E[x]^2 would cancel to noise here."""
    torch.manual_seed(0)
    x = torch.randn(64, 3, dtype=torch.float64) + 1e4
    exact = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    y = BatchNorm1d(3, dtype=dtype)(x.to(dtype))
    rounding = 1e4 * torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=4 * rounding)


@pytest.mark.parametrize("training", [True, False])
def test_functional_form_equals_torch(training):
    torch.manual_seed(1)
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    weight, bias = torch.randn(2, 4, dtype=torch.float64)
    stats = [torch.randn(4).double(), torch.rand(4).double() + 0.5]
    mine, theirs = copy.deepcopy(stats), copy.deepcopy(stats)
    arguments = {"training": training, "momentum": 0.2, "eps": 1e-3}
    a = batch_norm(x, *mine, weight, bias, **arguments)
    b = nn.functional.batch_norm(x, *theirs, weight, bias, **arguments)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(mine, theirs)
    assert training == (not torch.equal(mine[0], stats[0]))


def test_functional_form_has_the_signature_of_torch():
    import inspect

    names = list(inspect.signature(nn.functional.batch_norm).parameters.values())
    mine = list(inspect.signature(batch_norm).parameters.values())
    assert [(p.name, p.default) for p in mine] == [(p.name, p.default) for p in names]


def test_running_var_uses_unbiased_estimate_and_output_the_biased_one():
    x = torch.tensor([[1.0], [3.0]], dtype=torch.float64)  # biased 1, unbiased 2
    layer = BatchNorm1d(1, momentum=1.0, eps=0.0, dtype=torch.float64)
    assert layer(x).flatten().tolist() == [-1.0, 1.0]
    assert layer.running_var.item() == 2.0


@pytest.mark.parametrize("shape", SHAPES)
def test_state_dict_loads_both_ways(shape):
    ours, theirs, size = SHAPES[shape]
    mine, reference = pair(ours, theirs)
    mine(torch.randn(size).double())
    fresh_torch, fresh_ours = theirs(3).double(), ours(3).double()
    fresh_torch.load_state_dict(mine.state_dict())
    fresh_ours.load_state_dict(fresh_torch.state_dict())
    x = torch.randn(size).double()
    for layer in (mine, fresh_torch, fresh_ours):
        layer.eval()
    torch.testing.assert_close(mine(x), fresh_torch(x))
    assert torch.equal(mine(x), fresh_ours(x))
    assert fresh_ours.num_batches_tracked.item() == 1


def test_eval_changes_nothing_and_no_graph_is_kept_in_the_buffers():
    layer = BatchNorm1d(3)
    x = torch.randn(8, 3, requires_grad=True)
    layer(x * 2).sum().backward()
    assert all(b.grad_fn is None and not b.requires_grad for b in layer.buffers())
    before = copy.deepcopy(layer.state_dict())
    layer.eval()(x)
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())


def test_gradcheck_and_gradgradcheck():
    torch.manual_seed(0)
    x = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(2, 3, dtype=torch.float64).unbind()
    inputs = (x, weight.requires_grad_(), bias.requires_grad_())

    def normalized(x, weight, bias):
        return batch_norm(x, None, None, weight, bias, training=True)

    assert torch.autograd.gradcheck(normalized, inputs)
    assert torch.autograd.gradgradcheck(normalized, inputs)


def test_channels_last_keeps_its_memory_format():
    x = torch.randn(4, 3, 6, 5).contiguous(memory_format=torch.channels_last)
    mine, reference = BatchNorm2d(3), nn.BatchNorm2d(3)
    y = mine(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, reference(x))


@pytest.mark.parametrize("size", [(1, 3), (1, 3, 1), (1, 3, 1, 1)], ids=str)
def test_one_value_per_channel_is_refused_in_training_only(size):
    ours, theirs = {
        2: (BatchNorm1d, nn.BatchNorm1d),
        3: (BatchNorm1d, nn.BatchNorm1d),
        4: (BatchNorm2d, nn.BatchNorm2d),
    }[len(size)]
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        theirs(3)(torch.randn(size))
    layer = ours(3)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        layer(torch.randn(size))
    assert layer.eval()(torch.randn(size)).shape == size


def test_a_refused_batch_leaves_the_layer_as_it_was():
    layer = BatchNorm1d(3)
    with pytest.raises(ValueError):
        layer(torch.randn(1, 3))
    assert layer.num_batches_tracked.item() == 0


@pytest.mark.parametrize(
    ("layer", "size", "says"),
    [
        (BatchNorm1d(3), (8,), r"\(N, C\) or \(N, C, L\), got \(8,\)"),
        (BatchNorm1d(3), (2, 3, 4, 4), r"\(N, C\) or \(N, C, L\).*4D"),
        (BatchNorm2d(3), (2, 3, 4), r"\(N, C, H, W\), got \(2, 3, 4\)"),
        (BatchNorm1d(3), (8, 4), "expected 3 channels on axis 1, got 4"),
        (BatchNorm2d(3), (8, 4, 2, 3), "expected 3 channels on axis 1, got 4"),
    ],
)
def test_a_wrong_shape_is_refused_with_what_was_expected(layer, size, says):
    with pytest.raises(ValueError, match=says):
        layer(torch.randn(size))


def test_functional_errors_say_what_was_expected():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"weight of shape \(3,\)"):
        batch_norm(x, None, None, torch.ones(4), None, training=True)
    with pytest.raises(ValueError, match="running_mean and running_var when training=False"):
        batch_norm(x, None, None)
    with pytest.raises(ValueError, match="at least 2 axes"):
        batch_norm(x[0], None, None, training=True)


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"track_running_stats": False}])
def test_vmap_over_replicas_equals_a_loop(options):
    torch.manual_seed(0)
    layers = [BatchNorm1d(3, dtype=torch.float64, **options) for _ in range(4)]
    x = torch.randn(4, 8, 3, dtype=torch.float64)
    parameters, buffers = stack_module_state(layers)
    skeleton = copy.deepcopy(layers[0])

    def forward(parameters, buffers, x):
        return functional_call(skeleton, (parameters, buffers), (x,))

    for _ in range(2):
        together = vmap(forward)(parameters, buffers, x)
        alone = torch.stack([layer(part) for layer, part in zip(layers, x, strict=True)])
        torch.testing.assert_close(together, alone)
    for name, value in buffers.items():
        expected = torch.stack([dict(layer.named_buffers())[name] for layer in layers])
        torch.testing.assert_close(value, expected)


def test_functional_call_updates_the_buffers_that_were_passed():
    layer = BatchNorm1d(3)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    functional_call(layer, state, (torch.randn(8, 3) + 5,))
    assert state["running_mean"].abs().min() > 0.1
    assert layer.running_mean.abs().max() == 0


def test_reset_forgets_batches_and_parameters():
    layer = BatchNorm1d(2)
    layer(torch.randn(8, 2) + 3)
    with torch.no_grad():
        layer.weight.fill_(5)
    layer.reset_parameters()
    fresh = BatchNorm1d(2).state_dict()
    assert all(torch.equal(fresh[k], v) for k, v in layer.state_dict().items())


def test_ghost_batch_norm_normalizes_each_group_by_itself():
    torch.manual_seed(0)
    x = torch.randn(12, 3, dtype=torch.float64)
    ghost = GhostBatchNorm1d(3, group_size=4, dtype=torch.float64)
    parts = [nn.BatchNorm1d(3, momentum=1.0, dtype=torch.float64) for _ in range(3)]
    expected = torch.cat([part(group) for part, group in zip(parts, x.split(4), strict=True)])
    torch.testing.assert_close(ghost(x), expected)
    mean_var = torch.stack([part.running_var for part in parts]).mean(0)
    torch.testing.assert_close(ghost.running_var, 0.9 + 0.1 * mean_var)
    with pytest.raises(ValueError, match="group_size 4 divides, got 10"):
        ghost(torch.randn(10, 3, dtype=torch.float64))


def test_ghost_batch_norm_of_one_group_is_batch_norm():
    torch.manual_seed(0)
    x = torch.randn(8, 3, dtype=torch.float64)
    ghost, plain = GhostBatchNorm1d(3, group_size=8).double(), BatchNorm1d(3).double()
    for _ in range(2):
        torch.testing.assert_close(ghost(x), plain(x))
    torch.testing.assert_close(ghost.state_dict(), plain.state_dict())
    torch.testing.assert_close(ghost.eval()(x), plain.eval()(x))
