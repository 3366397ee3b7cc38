r"""Norms of the weights, or of the product: no statistics of the data are subtracted or stored.

Weight norm (Salimans & Kingma 2016) separates the length of a weight vector from its direction,
:math:`w = g\,v / \lVert v \rVert`. Cosine norm (Luo et al. 2018) replaces the product
:math:`w \cdot x` by :math:`\cos\theta(w, x)`. Derived in lessons 11 and 12.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = [
    "CosineConv2d",
    "CosineLinear",
    "MeanOnlyBatchNorm",
    "WeightNorm",
    "cosine",
    "init_by_data",
    "weight_norm",
]


class WeightNorm(nn.Module):
    r"""The parametrization :math:`w = g\,v / \lVert v \rVert`, for ``torch.nn.utils.parametrize``.

    The same numbers and the same state as ``torch.nn.utils.parametrizations.weight_norm``:
    ``original0`` is :math:`g`, ``original1`` is :math:`v`.

    Args:
        dim: the axis (or axes) along which every slice has a length of its own; 0: one length for
            each output. :math:`g` has size 1 along all others.

    Shape:
        :math:`v`: that of the weight.
    """

    def __init__(self, dim: int | tuple[int, ...] = 0):
        super().__init__()
        self.dim = (dim,) if isinstance(dim, int) else tuple(dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"

    def _length(self, v: Tensor) -> Tensor:
        kept = {axis % v.dim() for axis in self.dim}
        others = [axis for axis in range(v.dim()) if axis not in kept]
        return torch.linalg.vector_norm(v, dim=others, keepdim=True)

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return v * (g / self._length(v))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return (g, v) that give this weight: its length, and itself."""
        return self._length(weight), weight


def weight_norm(module: nn.Module, name: str = "weight", dim: int = 0) -> nn.Module:
    """Put :class:`WeightNorm` on a module's weight; the module computes what it did before.

    Returns the module, whose class torch has changed to one of the same name with the prefix
    ``Parametrized``.
    """
    parametrize.register_parametrization(module, name, WeightNorm(dim), unsafe=True)
    return module


def _axes_and_view(x: Tensor) -> tuple[list[int], list[int]]:
    """Return all axes but 1, and the shape that lines (C,) up with axis 1."""
    return [axis for axis in range(x.dim()) if axis != 1], [1, -1] + [1] * (x.dim() - 2)


@torch.no_grad()
def init_by_data(model: nn.Module, x: Tensor) -> None:
    r"""Give every weight-normed layer outputs of mean 0 and variance 1 on one batch.

    Runs the batch through the model, layer by layer, and sets
    :math:`g \leftarrow g / \sigma[t]` and :math:`b \leftarrow -\mu[t] / \sigma[t]`, where
    :math:`t` is a layer's output without its bias (Salimans & Kingma 2016, section 3). Layers
    without a bias only get the variance. The model runs in the mode it is in.

    Raises:
        ValueError: no layer has weight norm; or an output that is constant over the batch.
    """

    def rescale(layer, inputs, output):
        axes, view = _axes_and_view(output)
        t = output if layer.bias is None else output - layer.bias.view(view)
        std = t.std(axes, correction=0)
        if not (std > 0).all():
            raise ValueError(
                "init_by_data expected outputs that vary over the batch, got "
                f"{int((std == 0).sum())} constant ones in {layer}; use a larger batch"
            )
        g = layer.parametrizations.weight.original0
        g.div_(std.view([-1] + [1] * (g.dim() - 1)))
        if layer.bias is None:
            return t / std.view(view)
        layer.bias.copy_(-t.mean(axes) / std)
        return t / std.view(view) + layer.bias.view(view)

    layers = [m for m in model.modules() if parametrize.is_parametrized(m, "weight")]
    layers = [m for m in layers if isinstance(m.parametrizations.weight[0], WeightNorm)]
    if not layers:
        raise ValueError(
            "init_by_data expected a model with weight-normed layers, got none; put them there "
            "with weight_norm(layer), or build the model with norm='weight'"
        )
    hooks = [layer.register_forward_hook(rescale) for layer in layers]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()


class MeanOnlyBatchNorm(nn.Module):
    r"""Subtract the batch mean of each channel, divide by nothing, add a learned shift.

    .. math:: y = x - \mu_B + \beta

    The partner of weight norm in Salimans & Kingma 2016. Evaluation uses the running mean.

    Args:
        num_features: C.
        momentum: weight of the new value in the running average.

    Shape:
        :math:`(N, C, *)` -> the same.

    Raises:
        ValueError: another C, or a training batch of one value per channel.
    """

    per_channel = True  # channels never mix: see normlab.stack

    def __init__(self, num_features: int, momentum: float = 0.1, device=None, dtype=None):
        super().__init__()
        self.num_features, self.momentum = num_features, momentum
        start = torch.zeros(num_features, device=device, dtype=dtype)
        self.bias = nn.Parameter(start)
        self.register_buffer("running_mean", start.clone())

    def extra_repr(self) -> str:
        return f"{self.num_features}, momentum={self.momentum}"

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() < 2 or input.shape[1] != self.num_features:
            raise ValueError(
                f"MeanOnlyBatchNorm({self.num_features}) expected an input of shape "
                f"(N, {self.num_features}, ...), got {tuple(input.shape)}"
            )
        axes, view = _axes_and_view(input)
        if not self.training:
            return input - (self.running_mean - self.bias).view(view)
        if input.numel() == self.num_features:
            raise ValueError(
                "Expected more than 1 value per channel when training, got input size "
                f"{tuple(input.shape)}; use a larger batch or call .eval()"
            )
        mean = input.mean(axes)
        with torch.no_grad():
            self.running_mean.copy_(
                (1 - self.momentum) * self.running_mean + self.momentum * mean.detach()
            )
        return input - (mean - self.bias).view(view)


def cosine(input: Tensor, weight: Tensor, centered: bool = False, eps: float = 1e-8) -> Tensor:
    r"""Cosine of the angle between every input and every weight vector.

    .. math:: \cos\theta = \frac{w \cdot x}{\max(\lVert w \rVert, \varepsilon)\,
              \max(\lVert x \rVert, \varepsilon)}

    Args:
        input, weight: vectors along the last axis.
        centered: subtract from each vector the mean of its own entries first; the result is
            Pearson's correlation coefficient.
        eps: smallest length that is divided by. A zero vector gives 0, and finite gradients.

    Shape:
        input :math:`(*, N, F)`, weight :math:`(*, O, F)` -> :math:`(*, N, O)`, each in [-1, 1].
    """
    return _unit(input, centered, eps) @ _unit(weight, centered, eps).transpose(-1, -2)


def _unit(x: Tensor, centered: bool, eps: float) -> Tensor:
    """Divide every vector along the last axis by its length."""
    if centered:
        x = x - x.mean(-1, keepdim=True)
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=eps)


class _Cosine(nn.Module):
    """What CosineLinear and CosineConv2d share: the scale and the shift behind the cosine."""

    def _register(self, shape, bias, scale, learn_scale, device, dtype) -> None:
        kind, outputs = {"device": device, "dtype": dtype}, shape[0]
        self.weight = nn.Parameter(torch.empty(shape, **kind))
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(outputs, **kind)) if bias else None
        )
        scales = torch.full((outputs,), float(scale), **kind)
        if learn_scale:
            self.scale = nn.Parameter(scales)
        else:
            self.register_buffer("scale", scales)
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as torch.nn.Linear


class CosineLinear(_Cosine):
    r"""Cosine normalization (Luo et al. 2018) in place of a linear layer.

    .. math:: y_j = s_j \cos\theta(w_j, x) + b_j

    Args:
        in_features, out_features: F and O.
        bias: learn the shift b.
        scale: the value of s at the start; 1 as in the paper.
        learn_scale: learn one s for each output; otherwise s stays as it is.
        centered: use Pearson's correlation in place of the cosine.
        eps: smallest length that is divided by.

    Shape:
        :math:`(*, F)` -> :math:`(*, O)`.

    Raises:
        RuntimeError: an input with another F.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        scale: float = 1.0,
        learn_scale: bool = False,
        centered: bool = False,
        eps: float = 1e-8,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.centered, self.eps = centered, eps
        self._register((out_features, in_features), bias, scale, learn_scale, device, dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, centered={self.centered}"

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1] != self.in_features:
            raise RuntimeError(
                f"CosineLinear({self.in_features}, {self.out_features}) expected "
                f"{self.in_features} features on the last axis, got shape {tuple(input.shape)}"
            )
        y = cosine(input, self.weight, self.centered, self.eps) * self.scale
        return y if self.bias is None else y + self.bias


class CosineConv2d(_Cosine):
    r"""Cosine normalization in place of a convolution: the cosine of each filter with each patch.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as ``torch.nn.Conv2d``; square
            kernels only. Padded zeros count as part of a patch.
        others: as :class:`CosineLinear`.

    Shape:
        :math:`(N, C, H, W)` -> :math:`(N, O, H', W')`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        scale: float = 1.0,
        learn_scale: bool = False,
        centered: bool = False,
        eps: float = 1e-8,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = (
            in_channels,
            out_channels,
            kernel_size,
        )
        self.stride, self.padding, self.centered, self.eps = stride, padding, centered, eps
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self._register(shape, bias, scale, learn_scale, device, dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, centered={self.centered}"
        )

    def forward(self, input: Tensor) -> Tensor:
        view = [-1, 1, 1]
        y = (self._by_patches if self.centered else self._by_convolution)(input)
        y = y * self.scale.view(view)
        return y if self.bias is None else y + self.bias.view(view)

    def _by_patches(self, input: Tensor) -> Tensor:
        size, stride, pad = self.kernel_size, self.stride, self.padding
        patches = F.unfold(input, size, stride=stride, padding=pad).transpose(1, 2)  # (N, P, CKK)
        y = cosine(patches, self.weight.flatten(1), self.centered, self.eps)  # (N, P, O)
        height = (input.shape[2] + 2 * pad - size) // stride + 1
        return y.transpose(1, 2).unflatten(2, (height, -1))

    def _by_convolution(self, input: Tensor) -> Tensor:
        """Compute the same without patches in memory; their lengths come from a box filter."""
        size, stride, pad = self.kernel_size, self.stride, self.padding
        weight = _unit(self.weight.flatten(1), False, self.eps).view_as(self.weight)
        squares = input.square().sum(1, keepdim=True)
        square_length = F.avg_pool2d(squares, size, stride, pad) * size**2
        lengths = square_length.clamp(min=self.eps**2).sqrt()
        return F.conv2d(input, weight, stride=stride, padding=pad) / lengths
