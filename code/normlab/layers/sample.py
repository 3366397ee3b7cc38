r"""Norms within one sample: no batch, the same in training and in evaluation.

All of them are one formula; they differ in the set of values that share a mean and a variance,

.. math:: y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta

with the *biased* variance. Each layer is interchangeable with the one of the same name in
``torch.nn``: the same arguments, attributes, state and numbers. Half precision is computed in
float32 and rounded once, at the end. Derived in lessons 8 to 10. Sources: Ba et al. 2016
(layer), Zhang & Sennrich 2019 (RMS), Wu & He 2018 (group), Ulyanov et al. 2016 (instance).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = [
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "LayerNorm",
    "LayerNorm2d",
    "RMSNorm",
    "RMSNorm2d",
    "normalize",
]


def normalize(input: Tensor, axes: Sequence[int], eps: float = 1e-5, center: bool = True) -> Tensor:
    r"""Normalize over any axes: :math:`(x - \mu) / \sqrt{\sigma^2 + \varepsilon}`.

    Args:
        input: any tensor.
        axes: those whose values share a mean and a (biased) variance.
        eps: added to the variance, inside the root.
        center: subtract the mean. If False, nothing is subtracted, and the mean *square* takes the
            place of the variance.

    Shape:
        any -> the same.
    """
    axes = tuple(axes)
    if center:
        input = input - input.mean(axes, keepdim=True)
    return input * torch.rsqrt(input.square().mean(axes, keepdim=True) + eps)


def _wide(input: Tensor) -> Tensor:
    return input.float() if input.dtype in (torch.bfloat16, torch.float16) else input


class _SampleNorm(nn.Module):
    """A scale and a shift, either of which may be None."""

    def _register(self, shape: Sequence[int], scale: bool, shift: bool, device, dtype) -> None:
        weight, bias = (
            start(shape, device=device, dtype=dtype) for start in (torch.ones, torch.zeros)
        )
        self.register_parameter("weight", nn.Parameter(weight) if scale else None)
        self.register_parameter("bias", nn.Parameter(bias) if shift else None)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the scale to 1 and the shift to 0."""
        if self.weight is not None:
            self.weight.fill_(1)
        if getattr(self, "bias", None) is not None:
            self.bias.zero_()

    def _scale_and_shift(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Apply both; ``shape`` lines the parameters up with the axes of ``x``."""
        bias = getattr(self, "bias", None)
        if self.weight is not None:
            x = x * self.weight.to(x.dtype).reshape(shape)
        return x if bias is None else x + bias.to(x.dtype).reshape(shape)


class RMSNorm(_SampleNorm):
    r"""RMS normalization (Zhang & Sennrich 2019); the counterpart of ``torch.nn.RMSNorm``.

    .. math:: y = \gamma \frac{x}{\sqrt{\frac1n \sum x^2 + \varepsilon}}

    Layer norm without the mean and without the shift: it has no ``bias``.

    Args:
        normalized_shape: sizes of the last axes, those that share a mean square; a number C stands
            for (C,).
        eps: added to the mean square, inside the root; None: the machine epsilon of the type that
            is computed in.
        elementwise_affine: learn ``weight``, one for every place in ``normalized_shape``.

    Shape:
        :math:`(*, \text{normalized\_shape})` -> the same.

    Raises:
        RuntimeError: another shape (as torch).
    """

    center = False
    per_example = True  # every example is normalized by itself: see normlab.stack

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        single = isinstance(normalized_shape, int)
        self.normalized_shape = (normalized_shape,) if single else tuple(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self._register(self.normalized_shape, elementwise_affine, False, device, dtype)
        del self._parameters["bias"]

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )

    def forward(self, input: Tensor) -> Tensor:
        shape = self.normalized_shape
        if tuple(input.shape[-len(shape) :]) != shape:
            raise RuntimeError(
                f"{type(self).__name__}({list(shape)}) expected an input whose last axes are "
                f"{list(shape)}, got shape {tuple(input.shape)}"
            )
        x = _wide(input)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        y = normalize(x, range(-len(shape), 0), eps, self.center)
        return self._scale_and_shift(y, shape).to(input.dtype)


class LayerNorm(RMSNorm):
    r"""Layer normalization (Ba et al. 2016); the counterpart of ``torch.nn.LayerNorm``.

    Each sample is normalized by its own mean and *biased* variance over the last axes. Nothing is
    stored but :math:`\gamma` and :math:`\beta`, one of each for every place in
    ``normalized_shape`` (not one for the whole layer).

    Args:
        normalized_shape: sizes of the last axes; a number C stands for (C,).
        eps: added to the variance, inside the root.
        elementwise_affine: learn ``weight`` and ``bias``.
        bias: with ``elementwise_affine``, learn a ``bias`` too.

    Shape:
        :math:`(*, \text{normalized\_shape})` -> the same.

    Raises:
        RuntimeError: another shape (as torch).
    """

    center = True

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)
        affine = elementwise_affine
        self._register(self.normalized_shape, affine, affine and bias, device, dtype)


class RMSNorm2d(RMSNorm):
    r"""RMS norm over the channels at every position of an image: (N, C, H, W) -> the same."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class LayerNorm2d(LayerNorm):
    r"""Layer norm over the channels at every position of an image, as ConvNeXt uses it.

    Shape:
        :math:`(N, C, H, W)` -> the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class GroupNorm(_SampleNorm):
    r"""Group normalization (Wu & He 2018); the counterpart of ``torch.nn.GroupNorm``.

    Each sample is normalized over groups of C / G neighbouring channels and all positions. One
    group is layer norm over (C, H, W); C groups are instance norm.

    Args:
        num_groups: G.
        num_channels: C, a multiple of G.
        eps: added to the *biased* variance, inside the root.
        affine: learn a scale ``weight`` and a shift ``bias`` for every channel.
        bias: with ``affine``, learn a ``bias`` too.

    Shape:
        :math:`(N, C, *)` -> the same.

    Raises:
        ValueError: a G that does not divide C, or an input of one value for each group in all.
        RuntimeError: an input with another C, or fewer than two axes (as torch).
    """

    per_example = True

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device=None,
        dtype=None,
        *,
        bias: bool = True,
    ):
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm expected num_channels that num_groups={num_groups} divides, "
                f"got {num_channels}"
            )
        self.num_groups, self.num_channels = num_groups, num_channels
        self.eps, self.affine = eps, affine
        self._register((num_channels,), affine, affine and bias, device, dtype)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"

    def forward(self, input: Tensor) -> Tensor:
        shape = tuple(input.shape)
        if len(shape) < 2 or shape[1] != self.num_channels:
            raise RuntimeError(
                f"GroupNorm({self.num_groups}, {self.num_channels}) expected an input of shape "
                f"(N, {self.num_channels}, ...), got {shape}"
            )
        if input.numel() == self.num_groups:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {shape} in "
                f"{self.num_groups} groups: a single value minus its own mean is 0"
            )
        groups = _wide(input).reshape(shape[0], self.num_groups, -1)  # (N, G, C/G * H * W)
        y = normalize(groups, [2], self.eps).reshape(shape)
        return self._scale_and_shift(y, [-1] + [1] * (len(shape) - 2)).to(input.dtype)


class _InstanceNorm(_SampleNorm):
    """What InstanceNorm1d and InstanceNorm2d share; they differ in the shapes they accept."""

    axes: tuple[int, int]
    shapes: str

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device=None,
        dtype=None,
        *,
        bias: bool = True,
    ):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self._register((num_features,), affine, affine and bias, device, dtype)
        start = torch.zeros(num_features, device=device, dtype=dtype)
        batches = torch.tensor(0, dtype=torch.long, device=device)
        tracked = track_running_stats
        self.register_buffer("running_mean", start if tracked else None)
        self.register_buffer("running_var", torch.ones_like(start) if tracked else None)
        self.register_buffer("num_batches_tracked", batches if tracked else None)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, track_running_stats={self.track_running_stats}"
        )

    def forward(self, input: Tensor) -> Tensor:
        x = input if input.dim() == self.axes[1] else input[None]
        self._check(input, x)
        wide, per_channel = _wide(x), [-1] + [1] * (x.dim() - 2)
        if self.training and self.track_running_stats:
            self._update(wide.detach().flatten(2))
        if self.training or not self.track_running_stats:
            y = normalize(wide, range(2, x.dim()), self.eps)
        else:
            mean, var = self.running_mean.to(wide.dtype), self.running_var.to(wide.dtype)
            y = (wide - mean.reshape(per_channel)) * torch.rsqrt(var + self.eps).reshape(
                per_channel
            )
        return self._scale_and_shift(y, per_channel).reshape(input.shape).to(input.dtype)

    def _update(self, values: Tensor) -> None:
        """Move the running statistics towards the average over samples of mean and variance."""
        momentum = self.momentum or 0.0
        new = (self.running_mean, values.mean(2)), (self.running_var, values.var(2))  # unbiased
        for running, value in new:
            running.copy_((1 - momentum) * running + momentum * value.mean(0).to(running.dtype))

    def _check(self, input: Tensor, batched: Tensor) -> None:
        name, shape = type(self).__name__, tuple(input.shape)
        if input.dim() not in self.axes:
            raise ValueError(f"{name} expected an input of shape {self.shapes}, got {shape}")
        if batched.shape[1] != self.num_features:
            raise ValueError(
                f"{name}({self.num_features}) expected {self.num_features} channels, got an input "
                f"of shape {shape}"
            )
        if batched[0, 0].numel() == 1 and (self.training or not self.track_running_stats):
            raise ValueError(
                f"Expected more than 1 spatial element when training, got input size {shape}: "
                "a single value minus its own mean is 0; instance norm needs height and width"
            )


class InstanceNorm1d(_InstanceNorm):
    r"""Instance normalization of sequences; the counterpart of ``torch.nn.InstanceNorm1d``.

    Every channel of every sample is normalized by its own mean and *biased* variance over L. As in
    torch there is no scale and shift and no running average unless asked for. With
    ``track_running_stats`` the running variance moves towards the *unbiased* variance, averaged
    over the samples, and evaluation uses the running statistics.

    Args:
        num_features: C.
        eps: added to the variance, inside the root.
        momentum: weight of the new value in the running average.
        affine: learn a scale ``weight`` and a shift ``bias`` for every channel.
        track_running_stats: keep running statistics for evaluation.
        bias: with ``affine``, learn a ``bias`` too.

    Shape:
        :math:`(N, C, L)` or :math:`(C, L)` -> the same.

    Raises:
        ValueError: another shape, another C (torch only warns without ``affine``), or L = 1.
    """

    axes, shapes = (2, 3), "(N, C, L) or (C, L)"


class InstanceNorm2d(_InstanceNorm):
    r"""Instance normalization of images; the counterpart of ``torch.nn.InstanceNorm2d``.

    As :class:`InstanceNorm1d`, over height and width.

    Shape:
        :math:`(N, C, H, W)` or :math:`(C, H, W)` -> the same.
    """

    axes, shapes = (3, 4), "(N, C, H, W) or (C, H, W)"
