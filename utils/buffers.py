"""Buffers of modules, such as running averages: kept over a bad step, and saved for each process."""

import torch
from torch import Tensor, nn

from utils.distributed import gather_objects, this_process


class BufferSnapshot:
    """The buffers of a network before a forward pass, to restore where a NaN would have spoiled running averages.

    Args:
        network: its buffers must stay the tensors that they are now.
    """

    def __init__(self, network: nn.Module) -> None:
        # As int32, whatever their types: all in one launch on a GPU, as they are many and small. There may be none.
        nothing = torch.empty(0, dtype=torch.int32, device=next(network.parameters()).device)
        buffers = [buffer.detach().view(-1).view(torch.int32) for buffer in network.buffers()]
        self.buffers = [*buffers, nothing]
        self.before = torch.cat(self.buffers)
        self.chosen = torch.empty_like(self.before)
        self.parts_of_chosen = self.chosen.split([len(values) for values in self.buffers])

    def take(self) -> None:
        """Copy them as they are now."""
        torch.cat(self.buffers, out=self.before)

    def restore_unless(self, finite: Tensor) -> None:
        """Restore what `take` copied, unless `finite`, a () bool on the device; does not wait for the device."""
        torch.where(finite, torch.cat(self.buffers), self.before, out=self.chosen)
        torch._foreach_copy_(self.buffers, self.parts_of_chosen)  # pyright: ignore[reportPrivateImportUsage]


class BuffersOfRanks:
    """The buffers of each process: each normalises by its own batches, so they differ until an epoch ends.

    Args:
        modules: whose buffers they are.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self.modules = modules

    def state_dict(self) -> list[dict[str, Tensor]]:
        """Those of all processes, nothing where there is one; every process must call this."""
        if this_process().world_size == 1:
            return []
        return gather_objects({name: buffer.cpu() for name, buffer in self._named().items()})

    def load_state_dict(self, state_dict: list[dict[str, Tensor]]) -> None:
        """Load this process's own."""
        if state_dict:
            for name, buffer in self._named().items():
                buffer.copy_(state_dict[this_process().rank][name])

    def _named(self) -> dict[str, Tensor]:
        return {
            f"{place}.{name}": buffer
            for place, module in enumerate(self.modules)
            for name, buffer in module.named_buffers()
        }
