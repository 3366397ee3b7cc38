"""The networks of the course. Each takes ``norm=``, and is otherwise the same with any norm.

Weights are drawn from their own generator, in the same order whatever the norm: two networks with
the same seed start from the same weights, with and without batch norm.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from normlab.layers import Norm, make_norm

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "identity": nn.Identity}


def _init(layer: nn.Module, gain: float, generator: torch.Generator) -> None:
    """Draw weights from N(0, gain^2 / fan_in) and set the bias to 0."""
    fan_in = layer.weight[0].numel()
    with torch.no_grad():
        layer.weight.normal_(0.0, gain / math.sqrt(fan_in), generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()


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
        norm: any name that :func:`normlab.layers.make_norm` takes, or a callable.
        activation: "relu" (He initialization, std :math:`\sqrt{2/\text{fan-in}}`), "tanh",
            "sigmoid" or "identity" (std :math:`1/\sqrt{\text{fan-in}}`).
        bias: give the hidden linear layers a bias. Default: only where no norm follows.
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
            norm_layer = make_norm(norm, fan_out)
            has_bias = (norm_layer is None or norm_after == "a") if bias is None else bias
            linear = nn.Linear(fan_in, fan_out, bias=has_bias)
            _init(linear, gain * init_scale, generator)
            act = ACTIVATIONS[activation]()
            block = [linear, norm_layer, act] if norm_after == "z" else [linear, act, norm_layer]
            layers += [layer for layer in block if layer is not None]
        head = nn.Linear(sizes[-2], sizes[-1])
        _init(head, 1.0, generator)
        super().__init__(*layers, head)


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
        norm: any name that :func:`normlab.layers.make_norm` takes, or a callable.
        bias: give the convolutions a bias. Default: only without a norm.
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
            norm_layer = make_norm(norm, entry * width, spatial=2)
            has_bias = norm_layer is None if bias is None else bias
            conv = nn.Conv2d(channels, entry * width, 3, padding=1, bias=has_bias)
            _init(conv, math.sqrt(2) * init_scale, generator)
            channels = entry * width
            layers += [conv] + ([norm_layer] if norm_layer is not None else []) + [nn.ReLU()]
        head = nn.Linear(channels, classes)
        _init(head, 1.0, generator)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
