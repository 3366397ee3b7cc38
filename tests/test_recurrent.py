"""The recurrent networks against torch's own cells, and where the norms stand in them."""

import pytest
import torch
from torch import nn

from normlab.layers import BatchNorm1d, LayerNorm
from normlab.models import GATES, PerStep, RowRNN

TORCH = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@pytest.mark.parametrize("cell", GATES)
def test_without_a_norm_it_is_torchs_cell(cell):
    torch.manual_seed(0)
    model = RowRNN(6, 4, 5, 3, cell=cell).double()
    reference = TORCH[cell](4, 5, batch_first=True).double()
    with torch.no_grad():
        model.input.bias.normal_()
        for ours, theirs in (
            (model.input.weight, reference.weight_ih_l0),
            (model.recurrent.weight, reference.weight_hh_l0),
            (model.input.bias, reference.bias_ih_l0),
            (torch.zeros(1), reference.bias_hh_l0),
        ):
            theirs.copy_(ours.expand_as(theirs))
    x = torch.randn(7, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(model(x), model.head(reference(x)[0][:, -1]))


@pytest.mark.parametrize("norm", ["none", "layer", "rms", "batch"])
@pytest.mark.parametrize("cell", GATES)
def test_every_cell_trains_with_every_norm_and_takes_images(cell, norm):
    model = RowRNN(8, 8, 5, 10, cell=cell, norm=norm)
    y = model(torch.randn(4, 1, 8, 8))
    assert y.shape == (4, 10)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_layer_norm_stands_on_the_sum_in_the_plain_cell_and_on_both_parts_in_the_gated():
    norm = LayerNorm(5)
    model = RowRNN(1, 4, 5, 3, norm="layer")
    x = torch.randn(2, 1, 4)
    h = torch.tanh(norm(model.input(x[:, 0])))
    torch.testing.assert_close(model(x), model.head(h))
    for cell in ("gru", "lstm"):
        gated = RowRNN(2, 4, 5, 3, cell=cell, norm="layer")
        shapes = gated.norm_input.normalized_shape, gated.norm_recurrent.normalized_shape
        assert shapes == ((GATES[cell] * 5,),) * 2
        assert (gated.norm_cell is not None) == (cell == "lstm")


def test_batch_norm_keeps_statistics_for_every_step_and_one_scale():
    model = RowRNN(3, 4, 5, 2, norm="batch", gain=0.1)
    assert isinstance(model.norm_input, PerStep) and len(model.norm_input.norms) == 3
    assert all(isinstance(n, BatchNorm1d) and n.weight is None for n in model.norm_input.norms)
    assert (model.norm_input.weight == 0.1).all()
    model(torch.randn(6, 3, 4) + torch.tensor([0.0, 5.0, 10.0])[:, None])
    means = torch.stack([n.running_mean for n in model.norm_input.norms])
    assert not torch.allclose(means[0], means[1]) and not torch.allclose(means[1], means[2])


def test_recurrent_weights_start_orthogonal_times_scale_and_forget_gates_open():
    model = RowRNN(hidden=6, cell="gru", recurrent_scale=3.0)
    for part in model.recurrent.weight.split(6):
        torch.testing.assert_close(part @ part.T, 9 * torch.eye(6))
    for norm in ("none", "layer", "batch", "rms"):
        model = RowRNN(hidden=6, cell="lstm", norm=norm)
        holder = model.norm_input if norm in ("layer", "batch") else model.input
        assert holder.bias.tolist() == [0] * 6 + [1] * 6 + [0] * 12


def test_weights_depend_on_the_seed_and_not_on_the_norm():
    def weights(**options):
        model = RowRNN(cell="lstm", **options)
        return [model.input.weight, model.recurrent.weight, model.head.weight]

    same = zip(weights(seed=1), weights(seed=1, norm="layer"), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    other = zip(weights(seed=1), weights(seed=2), strict=True)
    assert not any(torch.equal(a, b) for a, b in other)


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="cell expected one of rnn, gru, lstm, got 'mgu'"):
        RowRNN(cell="mgu")
    with pytest.raises(ValueError, match="needs height and width"):
        RowRNN(norm="instance")
