"""The norms, written from scratch, and the names by which a model asks for one."""

from collections.abc import Callable

from torch import nn

from normlab.layers.batch import BatchNorm1d, BatchNorm2d, GhostBatchNorm1d, batch_norm

__all__ = ["NORMS", "BatchNorm1d", "BatchNorm2d", "GhostBatchNorm1d", "batch_norm", "make_norm"]

#: name -> {number of spatial axes -> layer}; a ``torch.`` name is torch's own layer.
NORMS = {
    "none": {0: None, 2: None},
    "batch": {0: BatchNorm1d, 2: BatchNorm2d},
    "torch.batch": {0: nn.BatchNorm1d, 2: nn.BatchNorm2d},
}

Norm = str | Callable[[int], nn.Module] | None


def make_norm(norm: Norm, num_features: int, spatial: int = 0) -> nn.Module | None:
    """Build the norm that ``norm`` names for ``num_features`` channels.

    Args:
        norm: a name in :data:`NORMS`, None for no norm, or anything that makes a layer when it is
            called with the number of channels (``partial(BatchNorm1d, affine=False)``).
        num_features: C.
        spatial: 0 for (N, C) inputs, 2 for (N, C, H, W).

    Raises:
        ValueError: an unknown name.
    """
    if callable(norm):
        return norm(num_features)
    found = NORMS.get("none" if norm is None else norm)
    if found is None:
        raise ValueError(
            f"norm expected one of {', '.join(NORMS)}, or a callable that takes the number of "
            f"features, got {norm!r}"
        )
    layer = found[spatial]
    return layer and layer(num_features)
