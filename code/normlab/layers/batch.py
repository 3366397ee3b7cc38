r"""Batch normalization from scratch, in tensor operations only.

For every channel, over the $m = N \cdot H \cdot W$ values that the batch holds of it,

.. math:: y = \gamma \frac{x - \mu_B}{\sqrt{\sigma_B^2 + \varepsilon}} + \beta

Interchangeable with ``torch.nn.functional.batch_norm`` and ``torch.nn.BatchNorm1d/2d``: the same
arguments, attributes, state and numbers. Derived in lesson 2, its backward pass in lesson 3, its
running statistics in lesson 6. Source: Ioffe & Szegedy 2015, Algorithms 1 and 2.
"""

import torch
from torch import Tensor, nn

__all__ = ["BatchNorm1d", "BatchNorm2d", "batch_norm"]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    r"""Normalize each channel over the batch, then scale and shift it.

    Two estimators of the variance are at work. The input is divided by the root of the *biased*
    one, :math:`\sigma_B^2 = \frac1m \sum (x - \mu_B)^2`; ``running_var`` receives the *unbiased*
    one, :math:`s_B^2 = \frac{m}{m-1} \sigma_B^2`.

    Args:
        input: values; statistics are taken over every axis but axis 1.
        running_mean, running_var: running statistics. With ``training=True`` they are changed in
            place (and may be None); with ``training=False`` they are what normalizes.
        weight, bias: scale :math:`\gamma` and shift :math:`\beta`, or None for 1 and 0.
        training: use the statistics of this batch (True) or the running ones (False).
        momentum: step :math:`\alpha` of the running average,
            :math:`r \leftarrow (1 - \alpha) r + \alpha\,\text{new}`: the weight of the *new* value.
        eps: :math:`\varepsilon`, added to the variance inside the root.

    Shape:
        ``input``: :math:`(N, C, *)`; every other tensor: :math:`(C,)`; returns the shape of
        ``input``.

    Raises:
        ValueError: a shape that does not fit, one value per channel in training, or no running
            statistics in evaluation.

    Half precision is computed in float32 and rounded once, at the end, as torch does.
    """
    _check(input, running_mean, running_var, weight, bias, training)
    x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
    axes = [axis for axis in range(x.dim()) if axis != 1]
    per_channel = [1, -1] + [1] * (x.dim() - 2)  # (C,) -> (1, C, 1, 1)

    if training:
        mean = x.mean(axes, keepdim=True)  # (N, C, H, W) -> (1, C, 1, 1)
        centered = x - mean
        var = centered.square().mean(axes, keepdim=True)  # biased
        count = x.numel() // x.shape[1]
        _update(running_mean, mean, momentum)
        _update(running_var, var * (count / (count - 1)), momentum)  # unbiased
    else:
        centered = x - running_mean.to(x.dtype).view(per_channel)
        var = running_var.to(x.dtype).view(per_channel)

    y = centered * torch.rsqrt(var + eps)
    if weight is not None:
        y = y * weight.to(x.dtype).view(per_channel)
    if bias is not None:
        y = y + bias.to(x.dtype).view(per_channel)
    return y.to(input.dtype)


def _update(running: Tensor | None, new: Tensor, momentum: float | Tensor) -> None:
    """Move a running statistic towards ``new``, in place and outside the autograd graph."""
    if running is not None:
        new = new.detach().reshape(running.shape).to(running.dtype)
        running.copy_((1 - momentum) * running.detach() + momentum * new)


def _check(input, running_mean, running_var, weight, bias, training) -> None:
    if input.dim() < 2:
        raise ValueError(
            f"batch_norm expected an input of shape (N, C, ...) with at least 2 axes, "
            f"got {tuple(input.shape)}; add the missing axis with unsqueeze"
        )
    channels = input.shape[1]
    named = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    for name, value in named.items():
        if value is not None and tuple(value.shape) != (channels,):
            raise ValueError(
                f"batch_norm expected {name} of shape ({channels},), one value for each of the "
                f"{channels} channels on axis 1 of the input {tuple(input.shape)}, "
                f"got {tuple(value.shape)}"
            )
    if not training and (running_mean is None or running_var is None):
        raise ValueError(
            "batch_norm expected running_mean and running_var when training=False, got None; "
            "pass both, or normalize with the batch itself by training=True"
        )
    if training and input.numel() == channels:
        raise ValueError(
            "Expected more than 1 value per channel when training, "
            f"got input size {tuple(input.shape)}: a single value minus its own mean is 0; "
            "use a larger batch (drop_last=True drops a short last one) or call .eval()"
        )


class _BatchNorm(nn.Module):
    """What BatchNorm1d and BatchNorm2d share; they differ in the shapes they accept."""

    shapes: dict[int, str]
    per_channel = True  # channels never mix: R stacked copies are one layer of R * C channels

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        kind = {"device": device, "dtype": dtype}
        weight, bias = torch.ones(num_features, **kind), torch.zeros(num_features, **kind)
        self.register_parameter("weight", nn.Parameter(weight) if affine else None)
        self.register_parameter("bias", nn.Parameter(bias) if affine else None)
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.zeros_like(bias) if tracked else None)
        self.register_buffer("running_var", torch.ones_like(bias) if tracked else None)
        batches = torch.tensor(0, dtype=torch.long, device=device)
        self.register_buffer("num_batches_tracked", batches if tracked else None)

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Forget all batches seen: mean 0, variance 1, count 0."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the scale to 1 and the shift to 0, and forget all batches seen."""
        self.reset_running_stats()
        if self.affine:
            self.weight.fill_(1)
            self.bias.zero_()

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, track_running_stats={self.track_running_stats}"
        )

    def forward(self, input: Tensor) -> Tensor:
        self._check_input(input)
        by_batch = self.training or self.running_mean is None
        updating = self.training and self.running_mean is not None
        momentum = self.momentum
        if updating and momentum is None:  # cumulative average: every batch weighs the same
            momentum = (self.num_batches_tracked + 1).double().reciprocal()
        y = self.normalize(input, by_batch, updating, momentum)
        if updating:
            self.num_batches_tracked.add_(1)
        return y

    def normalize(self, input: Tensor, by_batch: bool, updating: bool, momentum) -> Tensor:
        """Apply ``batch_norm``; variants that group the batch in another way override this."""
        use_running = updating or not by_batch
        return batch_norm(
            input,
            self.running_mean if use_running else None,
            self.running_var if use_running else None,
            self.weight,
            self.bias,
            by_batch,
            momentum,
            self.eps,
        )

    def _check_input(self, input: Tensor) -> None:
        name = type(self).__name__
        if input.dim() not in self.shapes:
            raise ValueError(
                f"{name} expected an input of shape {' or '.join(self.shapes.values())}, "
                f"got {tuple(input.shape)} ({input.dim()}D)"
            )
        if input.shape[1] != self.num_features:
            raise ValueError(
                f"{name}({self.num_features}) expected {self.num_features} channels on axis 1, "
                f"got {input.shape[1]} in an input of shape {tuple(input.shape)}"
            )


class BatchNorm1d(_BatchNorm):
    r"""Batch normalization of features; the counterpart of ``torch.nn.BatchNorm1d``.

    In training mode each of the C features is normalized by its mean and *biased* variance over
    the N (times L) values of this batch, and the running statistics move by ``momentum`` towards
    that mean and the *unbiased* variance. In evaluation mode the running statistics normalize,
    and nothing is changed.

    Args:
        num_features: C.
        eps: added to the variance, inside the root.
        momentum: weight of the new value in the running average; None: the plain average of all
            batches so far.
        affine: learn a scale ``weight`` and a shift ``bias`` per feature.
        track_running_stats: keep running statistics; if False, every mode uses the batch.

    Shape:
        :math:`(N, C)` or :math:`(N, C, L)` -> the same.

    Raises:
        ValueError: another shape, another C, or a training batch of one value per feature.
    """

    shapes = {2: "(N, C)", 3: "(N, C, L)"}


class BatchNorm2d(_BatchNorm):
    r"""Batch normalization of feature maps; the counterpart of ``torch.nn.BatchNorm2d``.

    As :class:`BatchNorm1d`, with one mean and one variance per channel over all
    :math:`m = N \cdot H \cdot W` values: height and width count as batch.

    Shape:
        :math:`(N, C, H, W)` -> the same.
    """

    shapes = {4: "(N, C, H, W)"}
