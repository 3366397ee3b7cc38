"""The norms, written from scratch, and the names by which a model asks for one."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from normlab.layers.batch import BatchNorm1d, BatchNorm2d, batch_norm
from normlab.layers.sample import (
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    LayerNorm,
    LayerNorm2d,
    RMSNorm,
    RMSNorm2d,
    normalize,
)
from normlab.layers.variants import BatchNoise, GhostBatchNorm1d, LpBatchNorm, NoisyBatchNorm
from normlab.layers.weights import (
    CosineConv2d,
    CosineLinear,
    MeanOnlyBatchNorm,
    WeightNorm,
    cosine,
    init_by_data,
    weight_norm,
)

__all__ = [
    "NORMS",
    "BatchNoise",
    "BatchNorm1d",
    "BatchNorm2d",
    "CosineConv2d",
    "CosineLinear",
    "GhostBatchNorm1d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "LayerNorm",
    "LayerNorm2d",
    "LpBatchNorm",
    "MeanOnlyBatchNorm",
    "NoisyBatchNorm",
    "RMSNorm",
    "RMSNorm2d",
    "WeightNorm",
    "batch_norm",
    "cosine",
    "init_by_data",
    "make_norm",
    "normalize",
    "normed",
    "weight_norm",
]


def groups_for(num_features: int) -> int:
    """Return the number of groups that ``norm="group"`` takes: at most 32, of at least 8 channels."""
    return math.gcd(32, max(1, num_features // 8))


def _group(layer: type) -> Callable[[int], nn.Module]:
    return lambda features: layer(groups_for(features), features)


def _any_shape(layer: type, **options) -> dict[int, Callable[[int], nn.Module]]:
    return {spatial: partial(layer, **options) for spatial in (0, 2)}


#: name -> {number of spatial axes -> layer}; a ``torch.`` name is torch's own layer. In an image
#: "layer" takes (C, H, W) together, as Wu & He do; "position" and "rms" take the channels at each
#: position, as ConvNeXt does.
NORMS = {
    "none": {0: None, 2: None},
    "batch": {0: BatchNorm1d, 2: BatchNorm2d},
    "layer": {0: LayerNorm, 2: partial(GroupNorm, 1)},
    "position": {2: LayerNorm2d},
    "rms": {0: RMSNorm, 2: RMSNorm2d},
    "group": {0: _group(GroupNorm), 2: _group(GroupNorm)},
    "instance": {2: partial(InstanceNorm2d, affine=True)},
    "noisy batch": _any_shape(NoisyBatchNorm),
    "noise": _any_shape(BatchNoise),
    "l1": _any_shape(LpBatchNorm, p=1),
    "l2": _any_shape(LpBatchNorm, p=2),
    "linf": _any_shape(LpBatchNorm, p=math.inf),
    "raw l1": _any_shape(LpBatchNorm, p=1, reading="raw"),
    "raw l2": _any_shape(LpBatchNorm, p=2, reading="raw"),
    "raw linf": _any_shape(LpBatchNorm, p=math.inf, reading="raw"),
    "torch.batch": {0: nn.BatchNorm1d, 2: nn.BatchNorm2d},
    "torch.layer": {0: nn.LayerNorm, 2: partial(nn.GroupNorm, 1)},
    "torch.group": {0: _group(nn.GroupNorm), 2: _group(nn.GroupNorm)},
    "torch.instance": {2: partial(nn.InstanceNorm2d, affine=True)},
}

#: names of norms that change the linear layer itself
WEIGHT_NORMS = ("weight", "mean-only", "cosine", "centered cosine")

Norm = str | Callable[[int], nn.Module] | None


def make_norm(norm: Norm, num_features: int, spatial: int = 0) -> nn.Module | None:
    """Build the norm that ``norm`` names for ``num_features`` channels.

    Args:
        norm: a name in :data:`NORMS`, None for no norm, or anything that makes a layer when it is
            called with the number of channels (``partial(BatchNorm1d, affine=False)``).
        num_features: C.
        spatial: 0 for (N, C) inputs, 2 for (N, C, H, W).

    Raises:
        ValueError: an unknown name, or a norm that needs height and width where there is none.
    """
    if callable(norm):
        return norm(num_features)
    found = NORMS.get("none" if norm is None else norm)
    if found is None:
        raise ValueError(
            f"norm expected one of {', '.join([*NORMS, *WEIGHT_NORMS])}, or a callable that takes "
            f"the number of features, got {norm!r}"
        )
    if spatial not in found:
        raise ValueError(f"norm={norm!r} needs height and width; in an MLP use another one")
    layer = found[spatial]
    return layer and layer(num_features)


def normed(norm: Norm, linear: nn.Linear | nn.Conv2d) -> list[nn.Module]:
    """Return what takes the place of a linear layer or convolution under a norm.

    A norm of the data stands behind the layer; "weight" is a parametrization of its weight;
    "mean-only" is that, followed by mean-only batch norm; "cosine" and "centered cosine" replace
    the layer by one with the same weights, and with a learned scale that starts at the root of the
    fan-in, so that the outputs for random inputs start with a variance near 1.

    Raises:
        ValueError: an unknown name.
    """
    conv = isinstance(linear, nn.Conv2d)
    if norm not in WEIGHT_NORMS:
        layer = make_norm(norm, linear.weight.shape[0], 2 if conv else 0)
        return [linear] if layer is None else [linear, layer]
    if norm == "weight":
        return [weight_norm(linear)]
    if norm == "mean-only":
        return [weight_norm(linear), MeanOnlyBatchNorm(linear.weight.shape[0])]
    options = {
        "bias": linear.bias is not None,
        "scale": math.sqrt(linear.weight[0].numel()),
        "learn_scale": True,
        "centered": norm == "centered cosine",
    }
    if conv:
        sizes = (linear.in_channels, linear.out_channels, linear.kernel_size[0])
        layer = CosineConv2d(*sizes, linear.stride[0], linear.padding[0], **options)
    else:
        layer = CosineLinear(linear.in_features, linear.out_features, **options)
    with torch.no_grad():
        layer.weight.copy_(linear.weight)
    return [layer]
