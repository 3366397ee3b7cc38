"""Many small networks trained as one: every linear layer becomes one batched matrix product.

On a CPU a step of a small network is mostly overhead. R networks of the same shape, stacked along a
leading replica axis, take one step together in far less time than R steps one after the other, and
each of them gets the numbers that it would have got alone.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrize

from normlab.layers import CosineLinear, WeightNorm, cosine

#: layers without state that act on each number or each example alone
_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.Dropout)


def _is_per_channel(layer: nn.Module) -> bool:
    return isinstance(layer, nn.BatchNorm1d) or getattr(layer, "per_channel", False)


def _is_per_example(layer: nn.Module) -> bool:
    torchs = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
    return isinstance(layer, torchs) or getattr(layer, "per_example", False)


def can_stack(models: Sequence[nn.Module]) -> bool:
    """Tell whether :class:`Stack` takes these networks (same layers, all of a kind it knows)."""
    first = models[0]
    return all(
        isinstance(model, nn.Sequential) and repr(model) == repr(first) for model in models
    ) and all(
        isinstance(layer, (nn.Linear, CosineLinear, nn.Flatten, *_ELEMENTWISE))
        or _is_per_channel(layer)
        or _is_per_example(layer)
        for layer in first
    )


def can_vmap(models: Sequence[nn.Module]) -> bool:
    """Tell whether :class:`VmapStack` takes these networks: equal, of a class that asks for it."""
    return all(getattr(m, "vmapped", False) and repr(m) == repr(models[0]) for m in models)


class _Stacked(nn.Module):
    """R equal layers as one: every tensor of their state, stacked along a new first axis."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        for name, value in layers[0].named_parameters():
            stacked = torch.stack([layer.get_parameter(name).detach() for layer in layers])
            stacked = nn.Parameter(stacked, requires_grad=value.requires_grad)
            self.register_parameter(name.replace(".", "_"), stacked)
        for name, _ in layers[0].named_buffers():
            stacked = torch.stack([layer.get_buffer(name) for layer in layers])
            self.register_buffer(name.replace(".", "_"), stacked)

    def state_of(self, replica: int) -> dict[str, Tensor]:
        """Return the tensors of one replica, by the names that this module has for them."""
        return {name: value[replica] for name, value in self.state_dict().items()}


class _StackedLinear(_Stacked):
    """R linear layers, with or without weight norm."""

    def __init__(self, layers: Sequence[nn.Linear]):
        super().__init__(layers)
        self.normed = parametrize.is_parametrized(layers[0], "weight")
        self.has_bias = layers[0].bias is not None

    def forward(self, x: Tensor) -> Tensor:  # (R, in, N) -> (R, out, N)
        if self.normed:
            g, v = self.parametrizations_weight_original0, self.parametrizations_weight_original1
            weight = WeightNorm(dim=(0, 1))(g, v)
        else:
            weight = self.weight
        if not self.has_bias:
            return torch.bmm(weight, x)
        return torch.baddbmm(self.bias[..., None], weight, x)


class _StackedCosine(_Stacked):
    """R cosine layers."""

    def __init__(self, layers: Sequence[CosineLinear]):
        super().__init__(layers)
        self.options = layers[0].centered, layers[0].eps
        self.has_bias = layers[0].bias is not None

    def forward(self, x: Tensor) -> Tensor:  # (R, in, N) -> (R, out, N)
        y = cosine(x.transpose(1, 2), self.weight, *self.options).transpose(1, 2)
        y = y * self.scale[..., None]
        return y + self.bias[..., None] if self.has_bias else y


class _StackedPerExample(_Stacked):
    """R norms of single examples: all rows in one call, then each replica's scale and shift."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__(layers)
        self.bare = copy.deepcopy(layers[0])
        self.bare.weight = None
        if hasattr(self.bare, "bias"):
            self.bare.bias = None

    def forward(self, x: Tensor) -> Tensor:  # (R, C, N) -> (R, C, N)
        replicas, channels, count = x.shape
        rows = self.bare(x.transpose(1, 2).reshape(replicas * count, channels))
        y = rows.view(replicas, count, channels).transpose(1, 2)
        if "weight" in self._parameters:
            y = y * self.weight[..., None]
        return y + self.bias[..., None] if "bias" in self._parameters else y


class _StackedPerChannel(nn.Module):
    """R norms of C channels as one norm of R * C channels: their statistics never mix channels."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.norm, self.replicas = copy.deepcopy(layers[0]), len(layers)
        self.norm.num_features *= self.replicas
        torchs = isinstance(layers[0], nn.BatchNorm1d)
        self.takes_positions = torchs or 3 in getattr(layers[0], "shapes", ())
        for name, value in layers[0].state_dict(keep_vars=True).items():
            if value.dim():
                wide = torch.cat([layer.state_dict()[name] for layer in layers])
                if isinstance(value, nn.Parameter):
                    wide = nn.Parameter(wide, requires_grad=value.requires_grad)
                setattr(self.norm, name, wide)

    def state_of(self, replica: int) -> dict[str, Tensor]:
        """Return the tensors of one replica; a count is shared by all."""
        return {
            name: value.view(self.replicas, -1)[replica] if value.dim() else value
            for name, value in self.norm.state_dict().items()
        }

    def forward(self, x: Tensor) -> Tensor:  # (R, C, N) -> (R, C, N)
        replicas, channels, count = x.shape
        if self.takes_positions:  # the examples as positions of one: nothing is copied
            return self.norm(x.reshape(1, replicas * channels, count)).view_as(x)
        y = self.norm(x.permute(2, 0, 1).reshape(count, replicas * channels))
        return y.view(count, replicas, channels).permute(1, 2, 0)


def _stacked(layers: Sequence[nn.Module]) -> nn.Module:
    """Return one module for R equal layers."""
    first = layers[0]
    if isinstance(first, nn.Linear):
        return _StackedLinear(layers)
    if isinstance(first, CosineLinear):
        return _StackedCosine(layers)
    if _is_per_channel(first):
        return _StackedPerChannel(layers)
    if _is_per_example(first):
        return _StackedPerExample(layers)
    return first


class Stack(nn.Module):
    """R networks of one shape as a single module.

    Args:
        models: R equal ``nn.Sequential`` networks (weights may differ), made of ``Flatten``,
            ``Linear`` (also with weight norm), ``CosineLinear``, norms and activations.

    Shape:
        :math:`(R, N, *)` -> logits :math:`(R, \\text{classes}, N)`.

    Raises:
        ValueError: networks that differ in shape, or a layer that cannot be stacked.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        if not can_stack(models):
            raise ValueError(
                "Stack expected equal nn.Sequential networks of Flatten, Linear, cosine, norm and "
                f"activation layers, got {models[0]}; train them one by one"
            )
        self.models = list(models)
        self.replicas = len(models)
        self.columns = [c for c in zip(*models, strict=True) if not isinstance(c[0], nn.Flatten)]
        self.blocks = nn.ModuleList(_stacked(column) for column in self.columns)

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
        for column, block in zip(self.columns, self.blocks, strict=True):
            for r, layer in enumerate(column):
                state = layer.state_dict(keep_vars=True)
                for name, value in state.items():
                    value.copy_(block.state_of(r)[name.replace(".", "_")])


class VmapStack(nn.Module):
    """R networks of one kind as a single module by ``torch.vmap``; for recurrent networks.

    Shape:
        :math:`(R, N, *)` -> logits :math:`(R, \\text{classes}, N)`.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        self.models, self.replicas = list(models), len(models)
        self.stacked, self.buffers_stacked = stack_module_state(self.models)
        self.base = [copy.deepcopy(models[0])]  # in a list: its own weights are not parameters

    def parameters(self, recurse: bool = True):
        """Return the stacked parameters, each (R, ...)."""
        return iter(self.stacked.values())

    def forward(self, x: Tensor) -> Tensor:
        base = self.base[0].train(self.training)

        def one(parameters, buffers, part):
            return functional_call(base, (parameters, buffers), (part,))

        return vmap(one)(self.stacked, self.buffers_stacked, x).transpose(1, 2)

    def spread(self, values: Tensor) -> list[Tensor]:
        """Shape one value per replica (R,) to multiply each parameter, in their order."""
        return [values.view([-1] + [1] * (p.dim() - 1)) for p in self.parameters()]

    @torch.no_grad()
    def unstack(self) -> None:
        """Copy the trained weights and buffers back into the networks this was built from."""
        for r, model in enumerate(self.models):
            for name, value in model.state_dict(keep_vars=True).items():
                value.copy_((self.stacked | self.buffers_stacked)[name][r])


class Single(nn.Module):
    """One network of any kind behind the interface of :class:`Stack` (R = 1).

    With ``fast`` and on a GPU it is compiled into CUDA graphs and multiplies in bfloat16.
    """

    def __init__(self, model: nn.Module, fast: bool = False):
        super().__init__()
        self.model, self.replicas = model, 1
        self.fast = fast and next(model.parameters()).is_cuda
        self.call = torch.compile(model, mode="reduce-overhead") if self.fast else model

    def forward(self, x: Tensor) -> Tensor:  # (1, N, *) -> (1, classes, N)
        if not self.fast:
            return self.model(x[0]).T[None]
        with torch.autocast("cuda", torch.bfloat16):
            return self.call(x[0]).float().T[None]

    def spread(self, values: Tensor) -> list[Tensor]:
        """Return the one value, once for each parameter."""
        return [values[0] for _ in self.parameters()]

    def unstack(self) -> None:
        """Do nothing: the network itself was trained."""
