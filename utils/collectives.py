"""Gather tensors of all processes, for losses and statistics of the global batch.

The gradients assume that gradients are averaged over the processes, as DistributedDataParallel does.
"""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from utils.distributed import this_process


def gathered(features: Tensor, dim: int) -> Tensor:
    """Concatenate the tensors of all processes along `dim`, in the order of the ranks, with gradient.

    Every process must call this and compute the same loss of all rows; then the gradient of its own rows is complete.
    The gradient is multiplied by the number of processes, by which averaging divides it.

    Args:
        features: of the same shape and type in all processes.
        dim: not negative.

    Returns:
        The argument itself with one process.
    """
    if this_process().world_size == 1:
        return features
    return _Gathered.apply(features, dim)  # pyright: ignore[reportReturnType]


def stacked(values: Tensor) -> Tensor:
    """Stack the tensors of all processes, of the same shape (...): (world_size, ...), without gradient.

    Every process must call this.
    """
    values = values.detach().contiguous()
    world_size = this_process().world_size
    if world_size == 1:
        return values[None]
    whole = values.new_empty((world_size, *values.shape))
    distributed.all_gather(list(whole.unbind()), values)
    return whole


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.size = dim, features.shape[dim]
        return torch.cat(stacked(features).unbind(), dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        dist = this_process()
        return dist.world_size * gradient.narrow(ctx.dim, dist.rank * ctx.size, ctx.size), None
