"""What a forward pass changes about a network besides its outputs, and how to take that back."""

import torch
from torch import Tensor, nn


class Buffers:
    """The tensors of a module that a forward pass changes: running averages. A NaN in an image spoils them for good.

    Args:
        module: its buffers must stay the tensors that they are now.
    """

    def __init__(self, module: nn.Module) -> None:
        flat = [buffer.detach().view(-1) for buffer in module.buffers()]
        types = dict.fromkeys(values.dtype for values in flat)
        self.groups = [[values for values in flat if values.dtype == dtype] for dtype in types]
        self.before: list[Tensor] = []

    def remember(self) -> None:
        """Copy them as they are now."""
        self.before = [torch.cat(group) for group in self.groups]

    def restore_unless(self, finite: Tensor) -> None:
        """Set them back to what `remember` found, unless `finite`, a () bool on the device. Waits for nothing."""
        for group, before in zip(self.groups, self.before, strict=True):
            chosen = torch.where(finite, torch.cat(group), before)
            # They are many and small: all in one launch on a GPU.
            torch._foreach_copy_(group, chosen.split([len(values) for values in group]))  # pyright: ignore[reportPrivateImportUsage]


def named_buffers(*modules: nn.Module) -> dict[str, Tensor]:
    """The buffers of modules, under names that tell them apart."""
    return {
        f"{place}.{name}": buffer for place, module in enumerate(modules) for name, buffer in module.named_buffers()
    }
