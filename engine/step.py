"""One update of the weights, on one device or on several at once, and only where all numbers are finite."""

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Literal, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from engine.buffers import Buffers
from engine.optim import fill_momentum
from engine.train_batch import TrainBatch
from losses.criterion import Criterion
from losses.loss import GeneratedOutput, Losses
from models.network import ReidNetwork
from models.outputs import select_images
from utils.distributed import this_process
from utils.errors import ParamsError
from utils.precision import Precision

logger = logging.getLogger(__name__)


class LossModule(nn.Module):
    """Network and losses as one: images and labels in, the scalar to lower out. What several devices train together.

    Args:
        network: computes in the given precision; called, so that a compiled one runs compiled.
        criterion: computes in float32.
        precision: number format of the network's activations.
    """

    def __init__(self, network: ReidNetwork, criterion: Criterion, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.criterion = criterion
        self.precision = precision

    def forward(self, batch: TrainBatch, step: int, spectral: bool) -> tuple[Tensor, Losses]:
        """The sum of all losses, and each of them with the metrics, without gradient."""
        made, of_made = batch.generated, None
        pixels = batch.pixels if made is None else torch.cat([batch.pixels, made.pixels])
        with self.precision.autocast(batch.pixels.device):
            output = self.network(pixels, spectral)
        if made is not None:
            number = len(batch.pixels)
            of_made = GeneratedOutput(select_images(output, slice(number, None)), made.labels, made.sources)
            output = select_images(output, slice(number))
        losses, metrics = self.criterion(output, batch.labels, step, batch.taught, of_made)
        detached = {name: loss.detach() for name, loss in losses.items()}
        return torch.stack(list(losses.values())).sum(), Losses(detached, metrics)


class Gradients(NamedTuple):
    """What the batches of one step came to; the gradients themselves lie with the parameters."""

    losses: list[Losses]
    """Of each batch, scalars that still lie on the device."""
    finite: Tensor
    """() bool on the device: the losses of every batch and all gradients are finite; the same in all processes.

    Gradients that overflow only because float16 has them scaled do not count: the scaler leaves that step out by itself
    and halves the scale. Once the scale is down to 1 they count.
    """
    silent: dict[str, Tensor]
    """() bool by branch: every gradient of the branch is zero or missing; empty unless watched."""


class Stepper:
    """Takes the steps of a training: `gradients`, then `update`.

    Neither waits for a GPU, but for an optimizer that torch has no fused version of: of that, `update` asks once
    whether all was finite.

    Args:
        module: network and losses, on their device, where their tensors stay.
        optimizer: over the module's parameters.
        precision: that of the module; float16 brings a scaler of gradients along.
        compile_mode: whether the network's code is compiled, "graphs": into CUDA graphs.
    """

    def __init__(
        self,
        module: LossModule,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        compile_mode: Literal["on", "graphs", "off"] = "off",
    ) -> None:
        self.optimizer = optimizer
        self.precision = precision
        self.device = next(module.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision.scales_gradients)  # pyright: ignore[reportPrivateImportUsage]
        self.compile_mode: Literal["on", "graphs", "off"] = compile_mode
        self.is_warm = compile_mode == "off"
        self.network = module.network
        self.buffers = Buffers(module)
        # With a scaler: whether the gradients are finite, so that they can be applied.
        self.in_range: Tensor | None = None
        if compile_mode != "off":
            # In place: the names in its state dict stay, and an evaluation, which calls `embed`, runs as it is written.
            module.network.compile(mode="reduce-overhead" if compile_mode == "graphs" else "default")
        self.module: nn.Module = _on_all_devices(module, self.device)

    def gradients(self, batches: Sequence[TrainBatch], step: int, spectral: bool, watch: bool = False) -> Gradients:
        """The gradients of the mean of the batches' losses, of all processes; every process must call this.

        Args:
            batches: of this step.
            step: number of the step; the losses may depend on it.
            spectral: whether the spectral transform acts.
            watch: whether to look for branches that no gradient reaches.
        """
        start = time.monotonic()
        self.optimizer.zero_grad(set_to_none=True)
        self.buffers.remember()
        found, sums = [], []
        for number, batch in enumerate(batches, start=1):
            if self.compile_mode == "graphs":
                torch.compiler.cudagraph_mark_step_begin()
            with self._alone(number < len(batches)):
                loss, losses = self.module(batch, step, spectral)
                self.scaler.scale(loss / len(batches)).backward()
            found.append(losses)
            sums.append(loss.detach())
        self.scaler.unscale_(self.optimizer)
        finite = self._are_finite(torch.stack(sums))
        silent = self._silent_branches() if watch else {}
        if not self.is_warm:
            self._tell_of_compiling(start)
        return Gradients(found, finite, silent)

    def update(self, finite: Tensor) -> None:
        """The optimizer's step on these gradients. Where not finite, all stays as it was before they were computed:
        weights, the optimizer's state, running averages of the network, and the scale of float16.

        Args:
            finite: () bool on the device, of `Gradients`.
        """
        applied = finite if self.in_range is None else finite & self.in_range
        fill_momentum(self.optimizer)
        if self.optimizer.defaults.get("fused"):
            # As GradScaler does: fused optimizers look at this on the device, and change nothing where it is 1.
            self.optimizer.found_inf = (~applied).float()  # pyright: ignore[reportAttributeAccessIssue]
            self.optimizer.step()
            del self.optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        elif bool(applied):
            self.optimizer.step()
        self.buffers.restore_unless(finite)
        if self.scaler.is_enabled():
            before = self._scale()
            self.scaler.update()
            # Lest it sinks with each bad image: only those overflows that it can do something about lower the scale.
            self.scaler.update(torch.where(finite, self._scale(), before))

    def _are_finite(self, losses: Tensor) -> Tensor:
        """Whether losses (batches,) and gradients are finite in all processes; remembers it of the gradients."""
        gradients = [parameter.grad for group in self.optimizer.param_groups for parameter in group["params"]]
        # A norm is not finite as soon as one number is not, or beyond 1e19, and quick; asking each number is slow.
        norm = get_total_norm([gradient for gradient in gradients if gradient is not None])
        flags = torch.stack([losses.isfinite().all(), norm.isfinite()])
        if this_process().world_size > 1:
            # Averaged gradients are alike, but the loss may have gone bad in one process only.
            shared = flags.float()
            distributed.all_reduce(shared, distributed.ReduceOp.MIN)
            flags = shared.bool()
        if not self.scaler.is_enabled():
            return flags.all()
        self.in_range = flags[1]
        return flags[0] & (flags[1] | (self._scale() > 1))

    def _silent_branches(self) -> dict[str, Tensor]:
        """() bool by name of the branch: every gradient of it is zero or missing."""
        silent = {}
        for name, branch in self.network.branches.items():
            gradients = [parameter.grad for parameter in branch.parameters() if parameter.grad is not None]
            norm = get_total_norm(gradients) if gradients else torch.zeros((), device=self.device)
            silent[name] = norm == 0
        return silent

    def _scale(self) -> Tensor:
        """() what float16's losses are multiplied by, on the device."""
        return self.scaler.scale(torch.ones((), device=self.device))

    def _alone(self, on: bool) -> AbstractContextManager[None]:
        """Within this context gradients are added up on each device; only the last batch's pass exchanges them."""
        return self.module.no_sync() if on and isinstance(self.module, DistributedDataParallel) else nullcontext()

    def _tell_of_compiling(self, start: float) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        logger.info("the first step, with the compilation of the network: %.1f s", time.monotonic() - start)
        self.is_warm = True


def choose_compilation(
    asked: Literal["auto", "on", "graphs", "off"], device: torch.device
) -> Literal["on", "graphs", "off"]:
    """What `compile` amounts to: "auto" compiles on a GPU. On a CPU compiled steps were no faster, and late by 45 s.

    Raises:
        ParamsError: CUDA graphs without a GPU.
    """
    if asked == "graphs" and device.type != "cuda":
        raise ParamsError('compile: "graphs" needs a GPU; set "auto", "on" or "off"')
    if asked == "auto":
        return "on" if device.type == "cuda" else "off"
    return asked


def _on_all_devices(module: LossModule, device: torch.device) -> nn.Module:
    """The module itself in a single process; among several one that averages their gradients."""
    if this_process().world_size == 1:
        return module
    # Newer versions of torch have another name for the same argument, and warn of the old one.
    known = signature(DistributedDataParallel).parameters
    syncing_buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        # Each process normalises by its own batch; the averages that evaluation uses are put together by the epoch.
        **{syncing_buffers: False},  # pyright: ignore[reportArgumentType]
        gradient_as_bucket_view=True,
        # A classifier that no loss looks at gets no gradient.
        find_unused_parameters="scores" not in module.criterion.needs,
    )
