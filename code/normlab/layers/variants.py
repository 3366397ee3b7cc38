r"""Variants of batch norm that answer questions: ghost batches, added noise, other norms.

None of them is meant for use. Ghost batch norm asks what the size of the batch does (lesson 7),
noisy batch norm whether distributions must stay where they are (lesson 17), and :math:`\ell_p`
batch norm whether mean and variance are what matters (lesson 20).
"""

import math

import torch
from torch import Tensor, nn

from normlab.layers.batch import BatchNorm1d, _BatchNorm, _update, batch_norm

__all__ = ["BatchNoise", "GhostBatchNorm1d", "LpBatchNorm", "NoisyBatchNorm"]

_ANY_SHAPE = {2: "(N, C)", 3: "(N, C, L)", 4: "(N, C, H, W)"}


class GhostBatchNorm1d(BatchNorm1d):
    r"""Batch norm over small groups inside a large batch (Hoffer et al. 2017).

    The batch of N examples is cut, in order, into N / group_size ghost batches; each is normalized
    by its own mean and variance. The running statistics move towards the average of the ghost
    batches' means and unbiased variances. Evaluation is that of :class:`BatchNorm1d`.

    Args:
        num_features: C.
        group_size: examples per ghost batch; must divide N.
        others: as :class:`BatchNorm1d`.

    Shape:
        :math:`(N, C)` -> the same.

    Raises:
        ValueError: N is not a multiple of ``group_size``.
    """

    shapes = {2: "(N, C)"}

    def __init__(self, num_features: int, group_size: int, **others):
        super().__init__(num_features, **others)
        self.group_size = group_size

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, group_size={self.group_size}"

    def normalize(self, input: Tensor, by_batch: bool, updating: bool, momentum) -> Tensor:
        if not by_batch:
            return super().normalize(input, by_batch, updating, momentum)
        count, channels = input.shape
        if count % self.group_size:
            raise ValueError(
                f"GhostBatchNorm1d expected a batch that its group_size {self.group_size} divides, "
                f"got {count} examples"
            )
        groups = count // self.group_size
        x = input.reshape(groups, self.group_size, channels).transpose(0, 1)
        x = x.reshape(self.group_size, groups * channels)  # a group's channel is a channel
        mean, var = input.new_zeros(groups * channels), input.new_ones(groups * channels)
        x_hat = batch_norm(x, mean, var, None, None, True, 1.0, self.eps)
        if updating:
            _update(self.running_mean, mean.view(groups, channels).mean(0), momentum)
            _update(self.running_var, var.view(groups, channels).mean(0), momentum)
        y = x_hat.reshape(self.group_size, groups, channels).transpose(0, 1).reshape_as(input)
        return y if not self.affine else y * self.weight + self.bias


class BatchNoise(nn.Module):
    r"""Noise whose mean and scale jump at every step (Santurkar et al. 2018, Algorithm 1).

    In training mode, for every channel and every call:

    .. math::
        \mu \sim U(-n_\mu, n_\mu), \qquad \sigma \sim U(1, n_\sigma)

    and for every one of its values :math:`a`, in a table or an image,

    .. math::
        a \leftarrow s a + m, \qquad m \sim U(\mu - r_\mu, \mu + r_\mu), \quad
        s \sim N(\sigma, r_\sigma^2)

    Height and width count as batch. The paper does not say whether the second argument of its
    normal distribution is a standard deviation or a variance; here it is a standard deviation. In
    evaluation mode nothing happens. The noise comes from torch's global random numbers.

    Args:
        num_features: C.
        n_mu, n_sigma, r_mu, r_sigma: the constants; the defaults are the paper's.

    Shape:
        :math:`(N, C, *)` -> the same.

    Raises:
        ValueError: constants for which the distributions do not exist, or another C.
    """

    per_channel = True  # every value has noise of its own: R stacked copies are R * C channels

    def __init__(
        self,
        num_features: int,
        n_mu: float = 0.5,
        n_sigma: float = 1.25,
        r_mu: float = 0.1,
        r_sigma: float = 0.1,
    ):
        super().__init__()
        if min(n_mu, r_mu, r_sigma) < 0 or n_sigma < 1:
            raise ValueError(
                "BatchNoise expected n_mu, r_mu, r_sigma >= 0 and n_sigma >= 1, got "
                f"{n_mu}, {r_mu}, {r_sigma} and {n_sigma}"
            )
        self.num_features = num_features
        self.constants = n_mu, n_sigma, r_mu, r_sigma

    def extra_repr(self) -> str:
        names = ("n_mu", "n_sigma", "r_mu", "r_sigma")
        pairs = (f"{n}={v}" for n, v in zip(names, self.constants, strict=True))
        return f"{self.num_features}, {', '.join(pairs)}"

    def forward(self, a: Tensor) -> Tensor:
        if not self.training:
            return a
        if a.dim() < 2 or a.shape[1] != self.num_features:
            raise ValueError(
                f"BatchNoise({self.num_features}) expected {self.num_features} channels on axis 1, "
                f"got an input of shape {tuple(a.shape)}"
            )
        n_mu, n_sigma, r_mu, r_sigma = self.constants
        channel = a.new_empty([1, a.shape[1]] + [1] * (a.dim() - 2))
        mu = torch.rand_like(channel) * (2 * n_mu) - n_mu
        sigma = torch.rand_like(channel) * (n_sigma - 1) + 1
        m = torch.rand_like(a).mul_(2 * r_mu).add_(mu - r_mu)
        # drawn contiguous: on a CPU six times as fast as in the order of channels_last
        s = torch.randn(a.shape, dtype=a.dtype, device=a.device).mul_(r_sigma).add_(sigma)
        return torch.addcmul(m, s, a)


class NoisyBatchNorm(_BatchNorm):
    r"""Batch norm, then :class:`BatchNoise`: outputs whose distribution never stays the same.

    Args:
        num_features: C.
        n_mu, n_sigma, r_mu, r_sigma: constants of the noise; the defaults are the paper's.
        others: as :class:`BatchNorm1d`.

    Shape:
        :math:`(N, C)`, :math:`(N, C, L)` or :math:`(N, C, H, W)` -> the same.

    Raises:
        ValueError: as :class:`BatchNorm1d` and :class:`BatchNoise`.
    """

    shapes = _ANY_SHAPE

    def __init__(
        self,
        num_features: int,
        n_mu: float = 0.5,
        n_sigma: float = 1.25,
        r_mu: float = 0.1,
        r_sigma: float = 0.1,
        **others,
    ):
        super().__init__(num_features, **others)
        constants = BatchNoise(num_features, n_mu, n_sigma, r_mu, r_sigma).constants
        self.constants = constants

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, noise={self.constants}"

    def normalize(self, input: Tensor, by_batch: bool, updating: bool, momentum) -> Tensor:
        y = super().normalize(input, by_batch, updating, momentum)
        noise = BatchNoise(self.num_features, *self.constants).train(self.training)
        return noise(y)


class LpBatchNorm(_BatchNorm):
    r"""Batch norm with an average :math:`\ell_p` norm in place of the standard deviation.

    .. math::
        y = \gamma \frac{x - \mu_B}{\sqrt{\ell^2 + \varepsilon}} + \beta, \qquad
        \ell = \Big(\frac1m \sum |u|^p\Big)^{1/p}, \quad
        \ell = \max |u| \text{ for } p = \infty

    Santurkar et al. (2018, section 3.3) fix the mean and divide by "the average of their
    :math:`\ell_p`-norm (before shifting the mean)", which can be read in two ways:
    ``reading="centered"`` takes :math:`u = x - \mu_B`, ``reading="raw"`` takes :math:`u = x`.
    Centered and p = 2 is batch norm.

    In training mode the running statistics move towards :math:`\mu_B` and :math:`\ell^2`
    (``running_var``; no factor m / (m - 1)), and in evaluation mode these normalize, as in
    :class:`BatchNorm1d`.

    Args:
        num_features: C.
        p: 1, 2, ..., or ``math.inf``.
        reading: "centered" or "raw".
        others: as :class:`BatchNorm1d`.

    Shape:
        :math:`(N, C)`, :math:`(N, C, L)` or :math:`(N, C, H, W)` -> the same.

    Raises:
        ValueError: p < 1, another reading, or as :class:`BatchNorm1d`.
    """

    shapes = _ANY_SHAPE

    def __init__(self, num_features: int, p: float = 2, reading: str = "centered", **others):
        super().__init__(num_features, **others)
        if not p >= 1:
            raise ValueError(f"LpBatchNorm expected p >= 1 (math.inf for the maximum), got {p}")
        if reading not in ("centered", "raw"):
            raise ValueError(f"LpBatchNorm expected reading 'centered' or 'raw', got {reading!r}")
        self.p, self.reading = p, reading

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}, reading={self.reading}"

    def normalize(self, input: Tensor, by_batch: bool, updating: bool, momentum) -> Tensor:
        if not by_batch:
            return super().normalize(input, by_batch, updating, momentum)
        if input.numel() == input.shape[1]:
            raise ValueError(
                "LpBatchNorm expected more than 1 value per channel in training, "
                f"got an input of shape {tuple(input.shape)}"
            )
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        axes = [axis for axis in range(x.dim()) if axis != 1]
        mean = x.mean(axes, keepdim=True)
        centered = x - mean
        length = self._length((centered if self.reading == "centered" else x).abs(), axes)
        if updating:
            _update(self.running_mean, mean, momentum)
            _update(self.running_var, length.square(), momentum)
        y = centered * torch.rsqrt(length.square() + self.eps)
        if self.affine:
            per_channel = [1, -1] + [1] * (x.dim() - 2)
            y = y * self.weight.to(x.dtype).view(per_channel)
            y = y + self.bias.to(x.dtype).view(per_channel)
        return y.to(input.dtype)

    def _length(self, size: Tensor, axes: list[int]) -> Tensor:
        """Return the average norm of one channel's absolute values."""
        if math.isinf(self.p):
            return size.amax(axes, keepdim=True)
        if self.p == 1:
            return size.mean(axes, keepdim=True)
        if self.p == 2:  # a root would have no gradient where all values are 0
            return size.square().mean(axes, keepdim=True).clamp_min(1e-30).sqrt()
        return size.pow(self.p).mean(axes, keepdim=True).clamp_min(1e-30).pow(1 / self.p)
