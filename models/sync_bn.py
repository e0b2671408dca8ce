"""Batch normalisation with several processes: synchronised, or with averaged running statistics."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from utils.collectives import stacked
from utils.distributed import mean_over_processes, this_process
from utils.errors import ParamsError
from utils.precision import at_least_fp32


def synchronise_batch_norm(network: nn.Module) -> None:
    """Turn every batch normalisation of a network into a `SyncBatchNorm`; every process must call this.

    Parameters, buffers and their names stay. With one process nothing changes.

    Raises:
        ParamsError: one of them does something else as well.
    """
    if this_process().world_size == 1:
        return
    for module in network.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if type(module).forward is nn.modules.batchnorm._BatchNorm.forward:
            module.__class__ = SyncBatchNorm
        elif type(module).__name__ == "BatchNormAct2d":
            module.__class__ = SyncBatchNormAct
        else:
            raise ParamsError(f"sync_bn: {type(module).__name__} cannot be synchronised; set sync_bn to false")


def average_buffers(network: nn.Module) -> None:
    """Set each floating point buffer to its mean over the processes, bitwise the same; every process must call this.

    Without synchronisation each process has its own running statistics; their mean is used and saved from then on.
    """
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    if this_process().world_size == 1 or not buffers:
        return
    # In float64, so that the mean of equal float32 numbers is exact.
    means = mean_over_processes(torch.cat([buffer.detach().double().flatten() for buffer in buffers]))
    distributed.broadcast(means, src=0)
    for buffer, mean in zip(buffers, means.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation by the images of all processes; their numbers may differ by process.

    Unlike `nn.SyncBatchNorm` it runs on every device, does not synchronise with the GPU, and compiles into one graph.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (B, C) or (B, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """(B, C) or (B, C, H, W) -> the same shape, type and memory format."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        mean, variance, count = _statistics(input.detach())
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            factor = 1.0 / self.num_batches_tracked.to(mean) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean), factor)
            # The unbiased variance.
            self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), factor)
        return _Normalised.apply(input, self.weight, self.bias, mean, variance, count, self.eps)  # pyright: ignore[reportReturnType]


class SyncBatchNormAct(SyncBatchNorm):
    """`SyncBatchNorm` with the activation of timm's BatchNormAct2d."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, type and memory format."""
        # The submodules of a BatchNormAct2d.
        return self.act(self.drop(super().forward(input)))  # pyright: ignore[reportCallIssue]


class _Normalised(torch.autograd.Function):
    """Batch normalisation with given statistics of all processes; the gradient includes their dependence on the input.

    Source: Ioffe and Szegedy 2015, arXiv 1502.03167, section 3; the sums over the batch are those of all processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(values, weight, mean, (variance + eps).rsqrt(), count)
        return F.batch_norm(values, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, weight, mean, inverse, count = ctx.saved_tensors
        shape = _per_channel(values)
        normalised = (at_least_fp32(values) - mean.view(shape)) * inverse.view(shape)
        slope = at_least_fp32(gradient)
        sums = torch.stack([_sum(slope), _sum(slope * normalised)])
        means = stacked(sums.double()).sum(0).div(count).to(mean.dtype)
        scale = inverse if weight is None else inverse * weight
        at_values = (slope - means[0].view(shape) - normalised * means[1].view(shape)) * scale.view(shape)
        _, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        at_weight, at_bias = sums[1] if wants_weight else None, sums[0] if wants_bias else None
        return at_values.to(values.dtype), at_weight, at_bias, None, None, None, None


def _statistics(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) of each channel over all processes, at least float32, and their count.

    Each process sums squares about its own mean, so that nothing cancels.

    Source: Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing sample variances", equation 2.1.
    """
    values = at_least_fp32(values)
    count = values.numel() // values.shape[1]
    mean = _sum(values) / max(count, 1)
    squares = _sum((values - mean.view(_per_channel(values))).square())
    packed = torch.cat([mean.double(), squares.double(), mean.new_full((1,), count, dtype=torch.float64)])
    means, squares, counts = stacked(packed).split([len(mean), len(mean), 1], dim=1)
    total = counts.sum()
    common = (counts * means).sum(0) / total
    variance = (squares + counts * (means - common).square()).sum(0) / total
    return common.to(values.dtype), variance.to(values.dtype), total


def _sum(values: Tensor) -> Tensor:
    """Of each channel: (B, C, ...) -> (C,)."""
    return values.sum([dim for dim in range(values.dim()) if dim != 1])


def _per_channel(values: Tensor) -> list[int]:
    """The shape in which (C,) meets (B, C, ...)."""
    return [-1 if dim == 1 else 1 for dim in range(values.dim())]
