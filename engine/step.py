"""One update of the weights, on one or several devices; skipped where a loss or gradient is not finite."""

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Literal, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, get_total_norm

from data.samples import UNKNOWN_CAMID
from engine.average import WeightAverage
from engine.batches import ExtraBatch, TrainBatch
from engine.checkpointing import Stateful
from engine.optim import fill_momentum
from losses.criterion import Criterion
from losses.loss import GeneratedOutput, Losses, Remembering, TeacherOutput
from models.network import ReidNetwork
from models.outputs import select_images
from models.sync_bn import average_buffers
from utils.buffers import BufferSnapshot, BuffersOfRanks
from utils.device import to_device
from utils.distributed import this_process
from utils.precision import Precision

logger = logging.getLogger(__name__)


class ModelWithLoss(nn.Module):
    """Network and losses as one module: a batch in, the scalar to minimise out. This is what is compiled, and what
    DDP wraps.

    Args:
        network: computes in the given precision.
        criterion: computes in float32.
        precision: number format of the network's activations.
    """

    def __init__(self, network: ReidNetwork, criterion: Criterion, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.criterion = criterion
        self.precision = precision

    def forward(
        self,
        pixels: Tensor,
        labels: Tensor,
        taught: TeacherOutput | None,
        extra: ExtraBatch | None,
        step: Tensor,
        updated_parts: Tensor | None,
        spectral: bool,
        camids: Tensor | None = None,
    ) -> tuple[Tensor, Losses]:
        """The sum of all losses, and each of them with the metrics, without gradient.

        Arguments as of TrainBatch, of the criterion and of the network. Only tensors differ from step to step: for
        anything else that changes another graph is compiled.
        """
        of_extra, images, of_images = None, pixels, camids
        if extra is not None:
            images = torch.cat([pixels, extra.images])
            if camids is not None:
                of_images = F.pad(camids, (0, len(extra.images)), value=UNKNOWN_CAMID)
        with self.precision.autocast(pixels.device):
            output = self.network(images, spectral, of_images)
        if extra is not None:
            number = len(pixels)
            of_extra = GeneratedOutput(select_images(output, slice(number, None)), extra.labels, extra.sources)
            output = select_images(output, slice(number))
        losses, metrics = self.criterion(output, labels, step, taught, of_extra, updated_parts, camids)
        detached = {name: loss.detach() for name, loss in losses.items()}
        return torch.stack(list(losses.values())).sum(), Losses(detached, metrics)


class Gradients(NamedTuple):
    """The losses of the batches of one step; the gradients themselves are stored in the parameters."""

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
    """Takes the steps of a training: `backward`, then `update`.

    Does not synchronise with the GPU, except after a first step that compiles, and in `update` with a non-fused
    optimizer.

    Args:
        network, criterion: on their device, where their tensors stay.
        optimizer: over the parameters of both.
        precision: number format of the network's activations; float16 scales the gradients.
        compile_mode: whether network and losses are compiled, "graphs": into CUDA graphs.
        max_norm: of all gradients as one vector; 0 = any.
        ema_decay: of the average of the network's weights; 0 = none is kept.
    """

    def __init__(
        self,
        network: ReidNetwork,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        compile_mode: Literal["on", "graphs", "off"] = "off",
        max_norm: float = 0.0,
        ema_decay: float = 0.0,
    ) -> None:
        self.network = network
        self.criterion = criterion
        self.optimizer = optimizer
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        fill_momentum(optimizer)
        self.precision = precision
        self.device = next(network.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision.scales_gradients)  # pyright: ignore[reportPrivateImportUsage]
        self.compile_mode: Literal["on", "graphs", "off"] = compile_mode
        self.first_step_logged = compile_mode == "off"
        self.max_norm = max_norm
        self.is_backbone_frozen = False
        module = ModelWithLoss(network, criterion, precision)
        self.buffers = BufferSnapshot(network)
        self.remembering = [part for part in criterion.modules() if isinstance(part, Remembering)]
        # With a scaler: whether the gradients are finite, so that they can be applied.
        self.in_range: Tensor | None = None
        if compile_mode != "off":
            # In place: names in the state dict stay. Each shape gets a graph of its own: a batch joined by generated
            # images would otherwise become one of any size, which is slower.
            module.compile(mode="reduce-overhead" if compile_mode == "graphs" else "default", dynamic=False)
        self.module: nn.Module = _on_all_devices(module, self.device)
        self.average = WeightAverage(network, ema_decay) if ema_decay else None

    @property
    def evaluated(self) -> ReidNetwork:
        """The network to evaluate and to keep: the average, if there is one."""
        return self.network if self.average is None else self.average.network

    @property
    def stateful(self) -> dict[str, Stateful]:
        """What decides how the steps go on, by name, to be loaded in this order."""
        averages = {} if self.average is None else {"average": self.average}
        return {
            "model": self.network,
            "criterion": self.criterion,
            **averages,
            "buffers": BuffersOfRanks(self.network, *averages.values()),
            "optimizer": self.optimizer,
            "scaler": self.scaler,
        }

    def average_buffers(self) -> None:
        """Give all processes, which normalise by their own batches, the same running averages; all must call this."""
        average_buffers(self.network)
        if self.average is not None:
            average_buffers(self.average.network)

    def freeze_backbone(self, frozen: bool) -> None:
        """Leave the backbone as it is from now on, or train it again; every process must call this at the same step.

        A frozen one gets no gradients, and runs as in evaluation: its running averages do not drift either.
        """
        if frozen == self.is_backbone_frozen:
            return
        self.is_backbone_frozen = frozen
        self.network.backbone.requires_grad_(not frozen).train(not frozen)
        if isinstance(self.module, DistributedDataParallel):
            # One waits for the gradients of all parameters that were trained when it was made.
            self.module._remove_autograd_hooks()
            self.module = _on_all_devices(self.module.module, self.device, init_sync=False)

    def backward(
        self, batches: Sequence[TrainBatch], step: int, *, spectral: bool = False, watch: bool = False
    ) -> Gradients:
        """The gradients of the mean of the batches' losses, of all processes; every process must call this.

        Args:
            batches: of this step.
            step: number of the step; the losses may depend on it.
            spectral: whether the spectral transform acts.
            watch: whether to look for branches that no gradient reaches.
        """
        start = time.monotonic()
        for parameter in self.parameters:
            parameter.grad = None
        if self.compile_mode == "graphs":
            # Once a step: what its batches leave, gradients above all, must last until the step is done.
            torch.compiler.cudagraph_mark_step_begin()
        self.buffers.take()
        number_of_step = torch.full((), step, device=self.device)
        updated_parts = self.criterion.draw_parts(step)
        if updated_parts is not None:
            updated_parts = to_device(updated_parts, self.device)
        found, sums = [], []
        for number, batch in enumerate(batches, start=1):
            with self._accumulating(number < len(batches)):
                inputs = batch.pixels, batch.labels, batch.taught, batch.extra, number_of_step, updated_parts, spectral
                loss, losses = self.module(*inputs, batch.camids)
                self.scaler.scale(loss if len(batches) == 1 else loss / len(batches)).backward()
            for part in self.remembering:
                part.remember()
            found.append(_copied(losses) if self.compile_mode == "graphs" else losses)
            sums.append(loss.detach())
        self.scaler.unscale_(self.optimizer)
        finite = self._are_finite(torch.stack(sums))
        silent = self._silent_branches() if watch else {}
        if not self.first_step_logged:
            self._log_compilation(start)
        return Gradients(found, finite, silent)

    def update(self, finite: Tensor) -> None:
        """The optimizer's step on these gradients. Where not finite, all stays as it was before they were computed:
        weights, the optimizer's state, running averages of the network, what losses remember, and the scale of float16.

        Args:
            finite: () bool on the device, of `Gradients`.
        """
        applied = finite if self.in_range is None else finite & self.in_range
        if self.max_norm:
            # Of float16 they have been unscaled, and of several processes averaged.
            clip_grad_norm_(self.parameters, self.max_norm)
        if self.optimizer.defaults.get("fused"):
            # As GradScaler does: fused optimizers look at this on the device, and change nothing where it is 1.
            self.optimizer.found_inf = (~applied).float()  # pyright: ignore[reportAttributeAccessIssue]
            self.optimizer.step()
            del self.optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        elif bool(applied):
            self.optimizer.step()
        self.buffers.restore_unless(finite)
        for part in self.remembering:
            part.keep_if(finite)
        if self.average is not None:
            self.average.update(applied)
        if self.scaler.is_enabled():
            before = self._scale()
            self.scaler.update()
            # Only overflows that a lower scale can prevent lower it; a bad image does not.
            self.scaler.update(torch.where(finite, self._scale(), before))

    def _are_finite(self, losses: Tensor) -> Tensor:
        """Whether losses (batches,) and gradients are finite in all processes; remembers it of the gradients."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        # As GradScaler does, with a scale of 1: in one pass over all gradients.
        bad = torch.zeros(1, device=self.device)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, bad, torch.ones_like(bad))  # pyright: ignore[reportPrivateImportUsage]
        flags = torch.stack([losses.sum().isfinite(), bad[0] == 0])
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

    def _accumulating(self, on: bool) -> AbstractContextManager[None]:
        """Within this context gradients are added up on each device; only the last batch's pass exchanges them."""
        return self.module.no_sync() if on and isinstance(self.module, DistributedDataParallel) else nullcontext()

    def _log_compilation(self, start: float) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        logger.info("the first step, with the compilation of the network: %.1f s", time.monotonic() - start)
        self.first_step_logged = True


def _copied(losses: Losses) -> Losses:
    """In memory of their own: CUDA graphs reuse that of their outputs in the next step."""
    copies = iter(torch.stack([*losses.losses.values(), *losses.metrics.values()]).unbind())
    return Losses(*({name: next(copies) for name in values} for values in losses))


def _on_all_devices(module: ModelWithLoss, device: torch.device, init_sync: bool = True) -> nn.Module:
    """The module itself in a single process; among several one that averages their gradients.

    With `init_sync` all processes get the weights and buffers of the first.
    """
    if this_process().world_size == 1:
        return module
    # Newer versions of torch have another name for the same argument, and warn of the old one.
    known = signature(DistributedDataParallel).parameters
    syncing_buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        init_sync=init_sync,
        # Each process normalises by its own batch; the averages that evaluation uses are put together by the epoch.
        **{syncing_buffers: False},  # pyright: ignore[reportArgumentType]
        gradient_as_bucket_view=True,
        # Such as a classifier whose scores no loss uses.
        find_unused_parameters=not (module.criterion.covers_network and module.network.scores_cover),
    )
