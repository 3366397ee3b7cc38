"""The networks of the course. Each takes ``norm=``, and is otherwise the same with any norm.

Weights are drawn from their own generator, in the same order whatever the norm: two networks with
the same seed start from the same weights, with and without batch norm.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normlab.layers import BatchNorm1d, Norm, make_norm, normed

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "identity": nn.Identity}


def _init(layer: nn.Module, gain: float, generator: torch.Generator) -> None:
    """Draw weights from N(0, gain^2 / fan_in) and set the bias to 0."""
    fan_in = layer.weight[0].numel()
    with torch.no_grad():
        layer.weight.normal_(0.0, gain / math.sqrt(fan_in), generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()


def _block(linear: nn.Linear | nn.Conv2d, norm: Norm, bias: bool | None) -> list[nn.Module]:
    """Return the layer and its norm; without a word on ``bias``, a norm that shifts replaces it."""
    layers = normed(norm, linear)
    shifts = len(layers) > 1 and hasattr(layers[1], "bias")
    if bias is None and shifts:
        linear.bias = None
    return layers


class _Net(nn.Sequential):
    """A chain of layers of which a slice is a plain ``nn.Sequential``."""

    def __getitem__(self, index):
        if isinstance(index, slice):
            return nn.Sequential(*list(self)[index])
        return super().__getitem__(index)


class MLP(_Net):
    r"""A multilayer perceptron: (linear -> norm -> activation) for every hidden layer, then linear.

    Args:
        sizes: features of the input, of every hidden layer and of the output: ``(64, 32, 10)``.
        norm: any name that :func:`normlab.layers.normed` takes, or a callable.
        activation: "relu" (He initialization, std :math:`\sqrt{2/\text{fan-in}}`), "tanh",
            "sigmoid" or "identity" (std :math:`1/\sqrt{\text{fan-in}}`).
        bias: give the hidden linear layers a bias. Default: only where no norm with a shift of its
            own follows (RMS norm has none).
        norm_after: "z" normalizes before the activation, "a" after it.
        init_scale: multiplies the initial weights of the hidden layers.
        seed: of the weights.

    Shape:
        :math:`(N, *)` -> :math:`(N, \text{sizes}[-1])`; images are flattened.

    Raises:
        ValueError: an unknown norm, activation or ``norm_after``, or fewer than two sizes.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        norm: Norm = "none",
        activation: str = "relu",
        bias: bool | None = None,
        norm_after: str = "z",
        init_scale: float = 1.0,
        seed: int = 0,
    ):
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation expected one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        if norm_after not in ("z", "a"):
            raise ValueError(f"norm_after expected 'z' or 'a', got {norm_after!r}")
        if len(sizes) < 2:
            raise ValueError(f"sizes expected at least (inputs, outputs), got {tuple(sizes)}")
        generator = torch.Generator().manual_seed(seed)
        gain = math.sqrt(2) if activation == "relu" else 1.0
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in zip(sizes[:-2], sizes[1:-1], strict=True):
            linear = nn.Linear(fan_in, fan_out, bias=bias is not False)
            _init(linear, gain * init_scale, generator)
            block = _block(linear, norm, True if norm_after == "a" else bias)
            block.insert(1 if norm_after == "a" else len(block), ACTIVATIONS[activation]())
            layers += block
        head = nn.Linear(sizes[-2], sizes[-1])
        _init(head, 1.0, generator)
        super().__init__(*layers, head)


class DeepLinear(_Net):
    r"""A deep linear network: a chain of square matrices, with or without norms between them.

    As a function it is one matrix; as an optimization problem it is as hard as it is deep. The last
    matrix has no norm behind it, for its outputs must reach the targets.

    Args:
        width: rows and columns of every matrix.
        depth: matrices.
        norm: any name that :func:`normlab.layers.normed` takes, or a callable.
        seed: of the weights, drawn from N(0, 1 / width), which is the Glorot initialization here.

    Shape:
        :math:`(N, \text{width})` -> the same.

    Source: Santurkar et al. 2018, appendix A.1 (25 matrices of 10 x 10).
    """

    def __init__(self, width: int = 10, depth: int = 25, norm: Norm = "none", seed: int = 0):
        if depth < 1:
            raise ValueError(f"depth expected at least 1 matrix, got {depth}")
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for index in range(depth):
            linear = nn.Linear(width, width, bias=False)
            _init(linear, 1.0, generator)
            layers += _block(linear, norm if index < depth - 1 else "none", False)
        super().__init__(*layers)


#: VGG by number of weight layers (Simonyan & Zisserman 2015, Table 1), in units of the width.
PLANS = {
    11: (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"),
    13: (1, 1, "M", 2, 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"),
    16: (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M"),
    19: (1, 1, "M", 2, 2, "M", 4, 4, 4, 4, "M", 8, 8, 8, 8, "M", 8, 8, 8, 8, "M"),
}


class VGG(_Net):
    r"""A VGG for small images: (3x3 convolution -> norm -> ReLU), max pooling, one linear layer.

    As usual on CIFAR-10, global average pooling and one linear layer replace the three fully
    connected layers of the ImageNet network. Pooling stops when one pixel is left, so the same
    network takes 8x8 digits and 32x32 photographs.

    Args:
        depth: 11, 13, 16 or 19; or a plan of your own, such as ``(1, 1, "M", 2, 2)``: channels of
            each convolution in units of ``width``, "M" for a 2x2 max pooling.
        width: channels of a unit; 64 in the paper.
        norm: any name that :func:`normlab.layers.normed` takes, or a callable.
        bias: give the convolutions a bias. Default: only where no norm with a shift of its own
            follows.
        channels: of the input.
        classes: outputs.
        init_scale: multiplies the initial weights of the convolutions (He: std
            :math:`\sqrt{2/\text{fan-in}}`).
        seed: of the weights.

    Shape:
        :math:`(N, \text{channels}, H, W)` -> :math:`(N, \text{classes})`.

    Raises:
        ValueError: an unknown depth, plan entry or norm.
    """

    def __init__(
        self,
        depth: int | Sequence = 11,
        width: int = 64,
        norm: Norm = "none",
        bias: bool | None = None,
        channels: int = 3,
        classes: int = 10,
        init_scale: float = 1.0,
        seed: int = 0,
    ):
        plan = PLANS.get(depth) if isinstance(depth, int) else tuple(depth)
        if plan is None or any(not (e == "M" or isinstance(e, int)) for e in plan):
            raise ValueError(
                f"depth expected one of {', '.join(map(str, PLANS))} or a plan such as "
                f"(1, 'M', 2, 2), got {depth!r}"
            )
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for entry in plan:
            if entry == "M":
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
                continue
            conv = nn.Conv2d(channels, entry * width, 3, padding=1, bias=bias is not False)
            _init(conv, math.sqrt(2) * init_scale, generator)
            channels = entry * width
            layers += [*_block(conv, norm, bias), nn.ReLU()]
        head = nn.Linear(channels, classes)
        _init(head, 1.0, generator)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


class PerStep(nn.Module):
    """Batch norm in a recurrent network: statistics for every time step, one scale and shift.

    Source: Cooijmans et al. 2017, section 3.

    Shape:
        (N, C) and the number of the step -> (N, C).
    """

    def __init__(self, steps: int, num_features: int, layer: type = BatchNorm1d):
        super().__init__()
        self.norms = nn.ModuleList(layer(num_features, affine=False) for _ in range(steps))
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor, step: int) -> Tensor:
        return self.norms[step](x) * self.weight + self.bias


#: gates of a recurrent cell: how many vectors of the hidden size its linear maps give
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


class RowRNN(nn.Module):
    r"""A recurrent network that reads an image in ``steps`` pieces, then names its class.

    Where the norm stands is what the papers do (Ba et al. 2016, Cooijmans et al. 2017):

    .. math::
        \text{rnn}: \quad & h \leftarrow \tanh(\text{norm}(W_x x + W_h h)) \\
        \text{gru, lstm}: \quad & \text{gates from } \text{norm}(W_x x) + \text{norm}(W_h h)

    The LSTM also normalizes its cell before the last tanh. Gates are normalized together, as one
    vector. With "batch" every time step has statistics of its own (:class:`PerStep`).

    Args:
        steps: pieces that the image is cut into: its height (row by row) or all its pixels.
        features: values in a piece.
        hidden: size of the hidden state.
        classes: outputs.
        cell: "rnn" (tanh), "gru" or "lstm" (whose forget gate starts with a bias of 1).
        norm: as :func:`normlab.layers.make_norm` (no convolution, no weight norm).
        gain: initial scale of the norms; Cooijmans et al. start batch norm at 0.1.
        recurrent_scale: multiplies the recurrent weights, which start orthogonal.
        seed: of the weights.

    Shape:
        :math:`(N, *)` with steps * features values for each example -> :math:`(N, \text{classes})`.

    Raises:
        ValueError: an unknown cell or norm.
    """

    vmapped = True  # normlab.train stacks equal networks with torch.vmap

    def __init__(
        self,
        steps: int = 8,
        features: int = 8,
        hidden: int = 32,
        classes: int = 10,
        cell: str = "rnn",
        norm: Norm = "none",
        gain: float = 1.0,
        recurrent_scale: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        if cell not in GATES:
            raise ValueError(f"cell expected one of {', '.join(GATES)}, got {cell!r}")
        self.steps, self.features, self.cell = steps, features, cell
        generator = torch.Generator().manual_seed(seed)
        width = GATES[cell] * hidden
        self.input, self.recurrent = (
            nn.Linear(features, width),
            nn.Linear(hidden, width, bias=False),
        )
        self.head = nn.Linear(hidden, classes)
        _init(self.input, 1.0, generator)
        _init(self.head, 1.0, generator)
        with torch.no_grad():
            for part in self.recurrent.weight.split(hidden):
                nn.init.orthogonal_(part, recurrent_scale, generator=generator)
        self.norm_input = self._norm(norm, width, gain)
        self.norm_recurrent = self._norm(norm, width if cell != "rnn" else 0, gain)
        self.norm_cell = self._norm(norm, hidden if cell == "lstm" else 0, gain)
        if cell == "lstm":
            shift = self.input if self.norm_input is None else self.norm_input
            with torch.no_grad():
                getattr(shift, "bias", self.input.bias)[hidden : 2 * hidden] = 1.0

    def _norm(self, norm: Norm, width: int, gain: float) -> nn.Module | None:
        layer = make_norm(norm, width) if width else None
        if isinstance(layer, (BatchNorm1d, nn.BatchNorm1d)):
            layer = PerStep(self.steps, width, type(layer))
        if layer is not None:
            with torch.no_grad():
                layer.weight.fill_(gain)
        return layer

    def extra_repr(self) -> str:
        return f"steps={self.steps}, features={self.features}, cell={self.cell}"

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(x.shape[0], self.steps, self.features)
        h = x.new_zeros(x.shape[0], self.head.in_features)
        c = h
        for step in range(self.steps):
            h, c = self._step(x[:, step], h, c, step)
        return self.head(h)

    def _step(self, x: Tensor, h: Tensor, c: Tensor, step: int) -> tuple[Tensor, Tensor]:
        def norm(layer, value):
            if layer is None:
                return value
            return layer(value, step) if isinstance(layer, PerStep) else layer(value)

        from_input, from_state = self.input(x), self.recurrent(h)
        if self.cell == "rnn":
            return torch.tanh(norm(self.norm_input, from_input + from_state)), c
        a, b = norm(self.norm_input, from_input), norm(self.norm_recurrent, from_state)
        if self.cell == "gru":
            (reset_a, keep_a, new_a), (reset_b, keep_b, new_b) = a.chunk(3, 1), b.chunk(3, 1)
            new = torch.tanh(new_a + torch.sigmoid(reset_a + reset_b) * new_b)
            keep = torch.sigmoid(keep_a + keep_b)
            return (1 - keep) * new + keep * h, c
        into, forget, new, out = (a + b).chunk(4, 1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(into) * torch.tanh(new)
        return torch.sigmoid(out) * torch.tanh(norm(self.norm_cell, c)), c
