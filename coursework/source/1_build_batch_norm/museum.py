"""The bug museum: nine batch norms, each with one defect that was found in public code.

Do not read on before you have written down your diagnosis: the symptoms tell enough.

The exhibits are rewritten and shortened; nobody's own lines are on show. All of them share the
skeleton ``Exhibit``, which is sound. Each fills in three methods, in a style of its own:

- ``statistics(x)`` returns the mean and the variance of the batch that divide and shift it, in
  shapes that broadcast against ``x``; it is called in training and in evaluation;
- ``normalize(x, mean, var)`` returns x_hat; in evaluation it is called with the running statistics;
- ``update(x, mean, var)`` moves the running statistics; it is called in training *and* in
  evaluation, with what ``statistics`` returned, and must know by itself what to do.
"""

import torch
from torch import Tensor, nn


class Exhibit(nn.Module):
    """The skeleton: parameters, buffers, and the order of events.

    Shape:
        ``x``: (N, C) or (N, C, H, W); the output has the shape of ``x``.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize with the batch in training and with the running statistics in evaluation."""
        mean, var = self.statistics(x)
        self.update(x, mean, var)
        if not self.training:
            mean, var = per_channel(self.running_mean, x), per_channel(self.running_var, x)
        x_hat = self.normalize(x, mean, var)
        return per_channel(self.weight, x) * x_hat + per_channel(self.bias, x)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the batch."""
        raise TypeError("Exhibit is only the skeleton; use one of ExhibitA to ExhibitI")

    def normalize(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Return x_hat."""
        raise TypeError("Exhibit is only the skeleton; use one of ExhibitA to ExhibitI")

    def update(self, x: Tensor, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics."""
        raise TypeError("Exhibit is only the skeleton; use one of ExhibitA to ExhibitI")


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Return (C,) values in a shape that broadcasts against ``x``: (1, C) or (1, C, 1, 1)."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def reduced_axes(x: Tensor) -> list[int]:
    """Return the axes of ``x`` without the channel axis: [0] or [0, 2, 3]."""
    return [axis for axis in range(x.dim()) if axis != 1]


class ExhibitA(Exhibit):
    """Exhibit A."""

    def statistics(self, x):
        mean = x.mean(reduced_axes(x), keepdim=True)
        return mean, (x - mean).square().mean(reduced_axes(x), keepdim=True)

    def normalize(self, x, mean, var):
        return (x - mean) / torch.sqrt(var + self.eps)

    @torch.no_grad()
    def update(self, x, mean, var):
        if self.training:
            m = x.numel() // self.num_features
            new_mean, new_var = mean.flatten(), var.flatten() * m / (m - 1)
            keep = self.momentum
            self.running_mean = keep * self.running_mean + (1 - keep) * new_mean
            self.running_var = keep * self.running_var + (1 - keep) * new_var


class ExhibitB(Exhibit):
    """Exhibit B."""

    def statistics(self, x):
        mean = x.mean(dim=0, keepdim=True)
        var = torch.mean((x - mean) ** 2, dim=0, keepdim=True)
        return mean, var

    def normalize(self, x, mean, var):
        return (x - mean) * torch.rsqrt(var + self.eps)

    def update(self, x, mean, var):
        if not self.training:
            return
        m = x.numel() // x.shape[1]
        for running, new in ((self.running_mean, mean), (self.running_var, var * m / (m - 1))):
            new = new.detach().reshape(x.shape[1], -1).mean(1)
            running.mul_(1 - self.momentum).add_(self.momentum * new)


class ExhibitC(Exhibit):
    """Exhibit C."""

    def statistics(self, x):
        mean = x.mean(dim=reduced_axes(x))
        mean_of_squares = (x * x).mean(dim=reduced_axes(x))
        var = mean_of_squares - mean * mean
        return per_channel(mean, x), per_channel(var, x)

    def normalize(self, x, mean, var):
        return (x - mean) / (self.eps + var) ** 0.5

    def update(self, x, mean, var):
        if self.training:
            m = x.numel() // len(self.running_mean)
            with torch.no_grad():
                self.running_mean.lerp_(mean.view(-1), self.momentum)
                self.running_var.lerp_(var.view(-1) * m / (m - 1), self.momentum)


class ExhibitD(Exhibit):
    """Exhibit D."""

    def statistics(self, x):
        with torch.no_grad():
            mean = x.mean(reduced_axes(x), keepdim=True)
            var = (x - mean).pow(2).mean(reduced_axes(x), keepdim=True)
        return mean, var

    def normalize(self, x, mean, var):
        return (x - mean) / (var + self.eps).sqrt()

    def update(self, x, mean, var):
        if self.training:
            m, a = x.numel() // x.size(1), self.momentum
            self.running_mean = (1 - a) * self.running_mean + a * mean.flatten()
            self.running_var = (1 - a) * self.running_var + a * var.flatten() * m / (m - 1)


class ExhibitE(Exhibit):
    """Exhibit E."""

    def statistics(self, x):
        rows = x.transpose(0, 1).flatten(1)  # (N, C, H, W) -> (C, NHW)
        mean = rows.mean(1)
        var = (rows - mean[:, None]).square().mean(1)
        return per_channel(mean, x), per_channel(var, x)

    def normalize(self, x, mean, var):
        return (x - mean).div((var + self.eps).sqrt())

    def update(self, x, mean, var):
        if self.training:
            n = x.shape[0]
            unbiased = var.detach().flatten() * n / (n - 1)
            self.running_mean += self.momentum * (mean.detach().flatten() - self.running_mean)
            self.running_var += self.momentum * (unbiased - self.running_var)


class ExhibitF(Exhibit):
    """Exhibit F."""

    def statistics(self, x):
        mean = x.mean(reduced_axes(x), keepdim=True)
        return mean, ((x - mean) ** 2).mean(reduced_axes(x), keepdim=True)

    def normalize(self, x, mean, var):
        std = var**0.5
        return (x - mean) / (std + self.eps)

    @torch.no_grad()
    def update(self, x, mean, var):
        if self.training:
            m = x.numel() // x.shape[1]
            step = self.momentum
            self.running_mean.copy_((1 - step) * self.running_mean + step * mean.view(-1))
            self.running_var.copy_(
                (1 - step) * self.running_var + step * var.view(-1) * m / (m - 1)
            )


class ExhibitG(Exhibit):
    """Exhibit G."""

    def statistics(self, x):
        mean = x.mean(reduced_axes(x), keepdim=True)
        centered = x - mean
        return mean, (centered * centered).mean(reduced_axes(x), keepdim=True)

    def normalize(self, x, mean, var):
        return torch.rsqrt(var + self.eps) * (x - mean)

    def update(self, x, mean, var):
        m = x.numel() // self.num_features
        unbiased = var.detach().flatten() * m / max(m - 1, 1)
        self.running_mean.lerp_(mean.detach().flatten(), self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)


class ExhibitH(Exhibit):
    """Exhibit H."""

    def statistics(self, x):
        m = x.numel() // x.shape[1]
        mean = x.sum(reduced_axes(x), keepdim=True) / m
        var = ((x - mean) ** 2).sum(reduced_axes(x), keepdim=True) / max(m - 1, 1)
        return mean, var

    def normalize(self, x, mean, var):
        return (x - mean) / torch.sqrt(var + self.eps)

    def update(self, x, mean, var):
        if self.training:
            with torch.no_grad():
                a = self.momentum
                self.running_mean = (1 - a) * self.running_mean + a * mean.flatten()
                self.running_var = (1 - a) * self.running_var + a * var.flatten()


class ExhibitI(Exhibit):
    """Exhibit I."""

    def statistics(self, x):
        mean = x.mean(reduced_axes(x), keepdim=True)
        return mean, (x - mean).square().mean(reduced_axes(x), keepdim=True)

    def normalize(self, x, mean, var):
        return (x - mean) / (var + self.eps).sqrt()

    def update(self, x, mean, var):
        if self.training:
            m, a = x.numel() // x.shape[1], self.momentum
            unbiased = var * m / (m - 1)
            self.running_mean = (1 - a) * self.running_mean + a * mean.flatten()
            self.running_var = (1 - a) * self.running_var + a * unbiased.flatten()
