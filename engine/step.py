"""One update of the weights, on one device or on several at once."""

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from losses.criterion import Criterion, Losses
from losses.distillation import TeacherOutput
from models.network import ReidNetwork
from utils.distributed import this_process
from utils.errors import ParamsError
from utils.precision import Precision

logger = logging.getLogger(__name__)


class TrainBatch(NamedTuple):
    """What one forward pass sees."""

    pixels: Tensor
    """(B, 3, H, W), augmented and normalised."""
    labels: Tensor
    """(B,) int64."""
    taught: TeacherOutput | None = None
    """What the teacher makes of the same pixels; None without one."""


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
        """The sum of all losses, and each of them with the measures ("accuracy" among them), without gradient."""
        with self.precision.autocast(batch.pixels.device):
            output = self.network(batch.pixels, spectral)
        terms, measures = self.criterion(output, batch.labels, step, batch.taught)
        logits = torch.cat([branch.scores.logits.detach() for branch in output.values()])
        accuracy = (logits.argmax(-1) == batch.labels).float().mean()
        detached = {name: term.detach() for name, term in terms.items()}
        return torch.stack(list(terms.values())).sum(), Losses(detached, {"accuracy": accuracy, **measures})


class Stepper:
    """Takes the steps of a training.

    Args:
        module: network and losses, on their device.
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
        if compile_mode != "off":
            # In place: the names in its state dict stay, and an evaluation, which calls `embed`, runs as it is written.
            module.network.compile(mode="reduce-overhead" if compile_mode == "graphs" else "default")
        self.module: nn.Module = _on_all_devices(module, self.device)

    def step(self, batches: Sequence[TrainBatch], step: int, spectral: bool) -> list[Losses]:
        """Lower the mean of the batches' losses; returns those of each batch, scalars that still lie on the device."""
        start = time.monotonic()
        self.optimizer.zero_grad(set_to_none=True)
        found = []
        for number, batch in enumerate(batches, start=1):
            if self.compile_mode == "graphs":
                torch.compiler.cudagraph_mark_step_begin()
            with self._alone(number < len(batches)):
                loss, losses = self.module(batch, step, spectral)
                self.scaler.scale(loss / len(batches)).backward()
            found.append(losses)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not self.is_warm:
            self._tell_of_compiling(start)
        return found

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
        find_unused_parameters=module.criterion.classification is None,
    )
