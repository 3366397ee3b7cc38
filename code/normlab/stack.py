"""Many small networks trained as one: every linear layer becomes one batched matrix product.

On a CPU a step of a small network is mostly overhead. R networks of the same shape, stacked along a
leading replica axis, take one step together in far less time than R steps one after the other, and
each of them gets the numbers that it would have got alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: layers without state that act on each number or each example alone
_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.Dropout)


def _is_per_channel(layer: nn.Module) -> bool:
    return isinstance(layer, nn.BatchNorm1d) or getattr(layer, "per_channel", False)


def can_stack(models: Sequence[nn.Module]) -> bool:
    """Tell whether :class:`Stack` takes these networks (same layers, all of a kind it knows)."""
    first = models[0]
    return all(
        isinstance(model, nn.Sequential) and repr(model) == repr(first) for model in models
    ) and all(
        isinstance(layer, (nn.Linear, nn.Flatten, *_ELEMENTWISE)) or _is_per_channel(layer)
        for layer in first
    )


class _StackedLinear(nn.Module):
    def __init__(self, layers: Sequence[nn.Linear]):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        has_bias = layers[0].bias is not None
        bias = [layer.bias.detach() for layer in layers] if has_bias else []
        self.bias = nn.Parameter(torch.stack(bias)[..., None]) if has_bias else None  # (R, out, 1)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(getattr(layers[0], name).requires_grad)

    def forward(self, x: Tensor) -> Tensor:  # (R, in, N) -> (R, out, N)
        if self.bias is None:
            return torch.bmm(self.weight, x)
        return torch.baddbmm(self.bias, self.weight, x)


class _StackedNorm(nn.Module):
    """R norms of C channels as one norm of R * C channels: their statistics never mix channels."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        states = [layer.state_dict() for layer in layers]
        wide = {
            key: value if value.dim() == 0 else torch.cat([state[key] for state in states])
            for key, value in states[0].items()
        }
        first = layers[0]
        options = {"group_size": first.group_size} if hasattr(first, "group_size") else {}
        reference = next(iter(wide.values()), None)
        self.norm = type(first)(
            first.num_features * len(layers),
            eps=first.eps,
            momentum=first.momentum,
            affine=first.affine,
            track_running_stats=first.track_running_stats,
            **options,
        )
        if reference is not None:
            self.norm.to(reference.device, reference.dtype)
        self.norm.load_state_dict(wide)
        for name, parameter in self.norm.named_parameters():
            parameter.requires_grad_(getattr(first, name).requires_grad)

    def forward(self, x: Tensor) -> Tensor:  # (R, C, N) -> (R, C, N)
        replicas, channels, count = x.shape
        y = self.norm(x.permute(2, 0, 1).reshape(count, replicas * channels))
        return y.view(count, replicas, channels).permute(1, 2, 0)


class Stack(nn.Module):
    """R networks of one shape as a single module.

    Args:
        models: R equal ``nn.Sequential`` networks (weights may differ), made of ``Flatten``,
            ``Linear``, batch norms and activations.

    Shape:
        :math:`(R, N, *)` -> logits :math:`(R, \\text{classes}, N)`.

    Raises:
        ValueError: networks that differ in shape, or a layer that cannot be stacked.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        if not can_stack(models):
            raise ValueError(
                "Stack expected equal nn.Sequential networks of Flatten, Linear, batch norm and "
                f"activation layers, got {models[0]}; train them one by one"
            )
        self.models = list(models)
        self.replicas = len(models)
        blocks = []
        for column in zip(*models, strict=True):
            if isinstance(column[0], nn.Linear):
                blocks.append(_StackedLinear(column))
            elif _is_per_channel(column[0]):
                blocks.append(_StackedNorm(column))
            elif not isinstance(column[0], nn.Flatten):
                blocks.append(column[0])
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)  # (R, N, *) -> (R, F, N)
        for block in self.blocks:
            x = block(x)
        return x

    def spread(self, values: Tensor) -> list[Tensor]:
        """Shape one value per replica (R,) to multiply each parameter, in their order."""
        return [
            values.repeat_interleave(p.shape[0] // self.replicas).view([-1] + [1] * (p.dim() - 1))
            for p in self.parameters()
        ]

    @torch.no_grad()
    def unstack(self) -> None:
        """Copy the trained weights and buffers back into the networks this was built from."""
        for r, model in enumerate(self.models):
            kept = [m for m in model if isinstance(m, nn.Linear) or _is_per_channel(m)]
            wide = [b for b in self.blocks if isinstance(b, (_StackedLinear, _StackedNorm))]
            for layer, block in zip(kept, wide, strict=True):
                source = block.norm if isinstance(block, _StackedNorm) else block
                for name, value in layer.state_dict(keep_vars=True).items():
                    stacked = getattr(source, name)
                    if value.dim() == 0:
                        value.copy_(stacked)
                    else:
                        value.copy_(stacked.reshape(self.replicas, *value.shape)[r])


class Single(nn.Module):
    """One network of any kind behind the interface of :class:`Stack` (R = 1)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.replicas = model, 1

    def forward(self, x: Tensor) -> Tensor:  # (1, N, *) -> (1, classes, N)
        return self.model(x[0]).T[None]

    def spread(self, values: Tensor) -> list[Tensor]:
        """Return the one value, once for each parameter."""
        return [values[0] for _ in self.parameters()]

    def unstack(self) -> None:
        """Do nothing: the network itself was trained."""
