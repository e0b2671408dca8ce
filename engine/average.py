"""The average of a network's weights over the steps of its training."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from models.network import ReidNetwork


class WeightAverage(nn.Module):
    """An exponential moving average of a network's weights, and of its running averages as they belong to the weights.

    In the first steps it forgets faster, so that the initial weights are no part of a short training's average.

    Args:
        network: its parameters and buffers must stay the tensors that they are now.
        decay: share of the average that each step keeps, in the long run.

    Source: torch's and timm's averages of models; the first steps: TensorFlow's ExponentialMovingAverage, (1+n)/(10+n).
    """

    updates: Tensor
    """() int64: steps so far, without those that were skipped."""

    def __init__(self, network: ReidNetwork, decay: float) -> None:
        super().__init__()
        self.network = deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=next(network.parameters()).device))
        of_average, of_network = _tensors(self.network), _tensors(network)
        self.averages = [tensor for tensor in of_average if tensor.is_floating_point()]
        self.values = [tensor for tensor in of_network if tensor.is_floating_point()]
        # Such as the number of batches that a normalisation has seen.
        self.counters = [tensor for tensor in of_average if not tensor.is_floating_point()]
        self.counts = [tensor for tensor in of_network if not tensor.is_floating_point()]

    def update(self, applied: Tensor) -> None:
        """Take the network's present values in, if the step was `applied`, a () bool on the device.

        Does not wait for the device.
        """
        decay = ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)
        # A weight that lies on the device: _foreach_lerp_ would take it for each tensor apart.
        differences = torch._foreach_sub(self.values, self.averages)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_mul_(differences, torch.where(applied, 1 - decay, 0.0))  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(self.averages, differences)  # pyright: ignore[reportPrivateImportUsage]
        if self.counters:
            torch._foreach_copy_(self.counters, self.counts)  # pyright: ignore[reportPrivateImportUsage]
        self.updates += applied


def _tensors(network: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
