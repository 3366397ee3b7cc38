"""Probes: against plain loops and closed forms, and that they leave everything as it was."""

import copy

import pytest
import torch
from torch import nn

from normlab import probes
from normlab.data import digits, linear_teacher
from normlab.models import MLP, VGG, DeepLinear

DATA = digits()
X, Y = DATA.x_train[:64], DATA.y_train[:64]
SIZES = [0.05, 0.2, 0.4]


def networks(kind: str, norm: str, count: int = 2) -> list[nn.Module]:
    if kind == "mlp":
        return [MLP((64, 16, 16, 10), norm=norm, seed=s) for s in range(count)]
    return [VGG((1, "M", 2, 2), 4, norm=norm, channels=1, seed=s) for s in range(count)]


def loss_and_gradient(model, x=X, y=Y):
    """The plain way: a copy, one forward and one backward pass."""
    model = copy.deepcopy(model)
    loss = probes.mean_loss(model(x), y)
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


def distance(a, b) -> float:
    return sum((p - q).square().sum() for p, q in zip(a, b, strict=True)).sqrt().item()


def moved(model, direction, size):
    model = copy.deepcopy(model)
    with torch.no_grad():
        for p, d in zip(model.parameters(), direction, strict=True):
            p.sub_(size * d)
    return model


CASES = [(kind, norm) for kind in ("mlp", "vgg") for norm in ("none", "batch", "torch.batch", "l1")]


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_line_is_the_plain_loop(kind, norm):
    models = networks(kind, norm)
    found = probes.line(models, X, Y, SIZES)
    for r, model in enumerate(models):
        start, gradient = loss_and_gradient(model)
        length = distance(gradient, [0 * g for g in gradient])
        assert found.start[r].item() == pytest.approx(start, rel=1e-5)
        assert found.length[r].item() == pytest.approx(length, rel=1e-4)
        rough = []
        for k, size in enumerate(SIZES):
            loss, there = loss_and_gradient(moved(model, gradient, size))
            change = distance(there, gradient)
            assert found.losses[r, k].item() == pytest.approx(loss, rel=1e-4)
            assert found.changes[r, k].item() == pytest.approx(change, rel=1e-3)
            rough.append(change / (size * length))
        assert found.smoothness[r].item() == pytest.approx(max(rough), rel=1e-3)
        losses = found.losses[r]
        assert found.loss_range[r].item() == pytest.approx((losses.max() - losses.min()).item())


@pytest.mark.parametrize("kind", ["mlp", "vgg"])
def test_together_and_one_by_one_agree(kind):
    models = networks(kind, "batch", 3)
    found = probes.line(models, X, Y, SIZES)
    for r, model in enumerate(models):
        alone = probes.line(model, X, Y, SIZES)
        torch.testing.assert_close(found.changes[r], alone.changes[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "vgg"])
def test_random_direction_goes_down_less_than_the_gradient(kind):
    models = networks(kind, "batch")
    tiny = 1e-3
    one = probes.line(models, X, Y, [tiny], random_seed=0)
    other = probes.line(models, X, Y, [tiny], random_seed=1)
    down = probes.line(models, X, Y, [tiny])
    assert not torch.equal(one.losses, other.losses)
    slope = (down.start - down.losses[:, 0]) / tiny  # along the gradient: its squared length
    torch.testing.assert_close(slope, down.length.square(), rtol=0.05, atol=0)
    assert ((one.start - one.losses[:, 0]).abs() < 0.5 * tiny * slope).all()


class Bowl(nn.Module):
    """With a squared error and targets 0: half the sum of curvature times weight squared."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0, -1.0]))

    def forward(self, x):
        return x * self.w


def test_smoothness_of_a_quadratic_is_its_curvature():
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])  # Hessian diag(4, 1)
    found = probes.line(Bowl(), x, torch.zeros(2, 2), [0.1, 0.3])
    gradient = torch.tensor([8.0, -1.0])
    curvature = (torch.tensor([4.0, 1.0]) * gradient).norm() / gradient.norm()
    torch.testing.assert_close(found.smoothness[0], curvature)
    assert found.start.item() == pytest.approx(8.5)


def test_random_direction_is_as_long_as_the_gradient():
    for seed in range(3):  # Hessian 1: the gradient changes by the distance moved
        found = probes.line(Bowl(), torch.eye(2), torch.zeros(2, 2), [0.5], random_seed=seed)
        torch.testing.assert_close(found.changes[0, 0], 0.5 * found.length[0])


@pytest.mark.parametrize(("kind", "norm"), [*CASES, ("vgg", "noisy batch"), ("mlp", "noise")])
def test_probes_leave_no_trace(kind, norm):
    models = networks(kind, norm)
    probes.mean_loss(models[0](X), Y).backward()
    before = [copy.deepcopy(m.state_dict()) for m in models]
    gradients = [p.grad.clone() for p in models[0].parameters()]
    state = torch.get_rng_state()
    probes.line(models, X, Y, SIZES, random_seed=3)
    probes.gradient_shift(models, X, Y, 0.1)
    probes.outputs_of(models[0], [models[0][1]], X)
    assert torch.equal(state, torch.get_rng_state())
    for model, old in zip(models, before, strict=True):
        assert model.training
        assert all(torch.equal(old[name], value) for name, value in model.state_dict().items())
    for p, g in zip(models[0].parameters(), gradients, strict=True):
        assert torch.equal(p.grad, g)


@pytest.mark.parametrize("kind", ["mlp", "vgg"])
def test_every_point_sees_the_same_noise(kind):
    model = networks(kind, "noisy batch", 1)[0]
    found = probes.line(model, X, Y, [1e-7, 2e-7])
    torch.testing.assert_close(found.losses[0], found.start.expand(2), rtol=1e-4, atol=0)
    assert (found.changes[0] < 1e-2 * found.length[0]).all()


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_gradient_shift_is_definition_2_1(kind, norm):
    models, rates = networks(kind, norm), [0.1, 0.02]
    found = probes.gradient_shift(models, X, Y, rates)
    names = probes.weight_names(models[0])
    for r, (model, rate) in enumerate(zip(models, rates, strict=True)):
        _, gradient = loss_and_gradient(model)
        order = [name for name, _ in model.named_parameters()]
        for i, name in enumerate(names):
            place = order.index(name)
            below = copy.deepcopy(model)
            with torch.no_grad():
                for p, g in list(zip(below.parameters(), gradient, strict=True))[:place]:
                    p.sub_(rate * g)
            after = loss_and_gradient(below)[1][place]
            before = gradient[place]
            shift = (before - after).norm().item()
            assert found.distance[r, i].item() == pytest.approx(shift, rel=1e-3, abs=1e-6)
            cosine = torch.cosine_similarity(before.flatten(), after.flatten(), 0).item()
            assert found.cosine[r, i].item() == pytest.approx(cosine, abs=1e-4)
            relative = shift / before.norm().item()
            assert found.relative[r, i].item() == pytest.approx(relative, rel=1e-3, abs=1e-6)
    assert (found.distance[:, 0] < 1e-6).all() and (found.distance[:, 1:] > 1e-4).all()


def test_gradient_shift_of_two_scalars():
    class Product(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
            with torch.no_grad():
                self[0].weight.fill_(2.0)
                self[1].weight.fill_(3.0)

    x, y = torch.tensor([[1.0]]), torch.tensor([[5.0]])
    found = probes.gradient_shift(Product(), x, y, 0.1)
    # y_hat = 6, error 1: G_1 = 2*1*3 = 6, G_2 = 2*1*2 = 4; w_1 -> 1.4, y_hat = 4.2, error -0.8
    assert found.distance[0].tolist() == pytest.approx([0.0, abs(4 - 2 * -0.8 * 1.4)])
    assert found.cosine[0, 1].item() == pytest.approx(-1.0)


def test_deep_linear_network():
    data = linear_teacher(n=50)
    model = DeepLinear(width=10, depth=3, norm="batch")
    assert [type(layer).__name__ for layer in model] == ["Linear", "BatchNorm1d"] * 2 + ["Linear"]
    assert all(layer.bias is None for layer in model if isinstance(layer, nn.Linear))
    plain = DeepLinear(width=10, depth=3)
    product = plain[2].weight @ plain[1].weight @ plain[0].weight
    torch.testing.assert_close(plain(data.x_train), data.x_train @ product.T)
    loss = probes.mean_loss(plain(data.x_train), data.y_train)
    errors = (plain(data.x_train) - data.y_train).square()
    assert loss.item() == pytest.approx(errors.sum().item() / 50)


def test_linear_teacher_is_one_matrix_for_both_parts():
    data = linear_teacher(n=40, test=30, features=4, outputs=3, seed=5)
    found = torch.linalg.lstsq(data.x_train.double(), data.y_train.double()).solution
    torch.testing.assert_close(
        data.x_test.double() @ found, data.y_test.double(), atol=1e-5, rtol=0
    )
    assert data.classes == () and data.y_train.dtype == torch.float32
    assert not torch.equal(data.x_train[:30], data.x_test)


def test_moments_and_drift():
    values = torch.tensor([[[1.0, 3.0]], [[5.0, 7.0]]])  # (N=2, C=1, L=2)
    torch.testing.assert_close(probes.moments(values), torch.tensor([[4.0], [5.0**0.5]]))
    history = torch.tensor(
        [[[0.0, 2.0], [1.0, 3.0]], [[1.0, 0.0], [1.0, 5.0]], [[4.0, 2.0], [2.0, 2.0]]]
    )
    expected = torch.tensor([[1.5 / 2, 1 / 2], [2.5 / 3, 2 / 3]])
    torch.testing.assert_close(probes.drift(history, 1), expected)
    expected = torch.tensor([[0.0, 0.0], [1.5 / 2, 1 / 2], [2 / 2, 1 / 2]])
    torch.testing.assert_close(probes.drift(history, None), expected)


def test_restored_gives_everything_back():
    model = networks("vgg", "batch", 1)[0].eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="stop"), probes.restored(model):
        model.train()
        model(X * torch.randn(1))
        raise RuntimeError("stop")
    assert not model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_errors():
    model = networks("mlp", "none", 1)[0]
    with pytest.raises(ValueError, match="larger than 0"):
        probes.line(model, X, Y, [0.1, 0.0])
    with pytest.raises(ValueError, match="larger than 0"):
        probes.line(model, X, Y, [])
    with pytest.raises(ValueError, match="one shape"):
        probes.line([model, MLP((64, 10))], X, Y, [0.1])
    with pytest.raises(ValueError, match="between 1 and 2"):
        probes.drift(torch.zeros(3, 2, 4), 3)
