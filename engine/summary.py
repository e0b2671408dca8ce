"""What a run amounts to before it begins: its steps, images, parameters and learning rates, and where it runs."""

import logging
import platform
from collections.abc import Sequence
from importlib.metadata import version

import torch

from config.params import Params
from data.samples import Sample, sorted_pids
from engine.batches import batches_of_epoch, num_processes
from engine.optim import build_schedule
from engine.run import RunFolder, TrainingPlan
from models.network import build_network
from utils.device import describe_device
from utils.distributed import this_process

logger = logging.getLogger(__name__)


def plan_training(
    params: Params, labels: Sequence[int], device: torch.device, precision: str, num_extra: int = 0
) -> TrainingPlan:
    """The plan of a re-ID training.

    Args:
        params: of the run.
        labels: class index, or pid, of each training image.
        device: of this process.
        precision: name of the number format.
        num_extra: extra images that join each batch.
    """
    options = params.evaluation_params
    images = f"{params.batch_images + num_extra} images of {params.img_h} x {params.img_w}"
    lower = "batch_sampling_params.P or K" if params.batch_sampling_params.class_balanced else "batch_size"
    halved = ' or set precision "bf16", which halves the activations' if precision == "fp32" else ""
    return TrainingPlan(
        num_epochs=params.epoch,
        steps_per_epoch=len(batches_of_epoch(params, labels, 0)) // params.accumulate_steps,
        images_per_step=params.batch_images * params.accumulate_steps * this_process().world_size,
        evaluate_every=0 if options.type is None else options.every_epochs,
        evaluate_at_start=options.at_start,
        memory_use=f"training on {device} with {images} a batch in {precision}",
        memory_advice=f"lower {lower} (accumulate_steps makes up for it), img_h and img_w, take a smaller model"
        f"{halved}",
    )


def describe_training(params: Params, train: Sequence[Sample]) -> str:
    """The arithmetic of a run: steps, images, identities, parameters, learning rates."""
    pids = sorted_pids(train)
    steps = len(batches_of_epoch(params, [sample.pid for sample in train], 0)) // params.accumulate_steps
    images = params.batch_images * params.accumulate_steps
    spread = f" on each of {num_processes(params)} devices" if num_processes(params) > 1 else ""
    with torch.device("meta"):
        network = build_network(params.model_params, len(pids))
    count = sum(parameter.numel() for parameter in network.parameters())
    return (
        f"{params.epoch} epochs of {steps} steps of {images} images{spread}; {len(pids)} identities; "
        f"{params.model_params.model} with {count / 1e6:.2f} million parameters, embedding of {network.embedding_dim}\n"
        f"{_describe_schedule(params, steps)}"
    )


def _describe_schedule(params: Params, steps: int) -> str:
    """The course of the learning rates, with a warning where a slip in decay_step would leave them near zero."""
    total = params.epoch * steps
    schedule = build_schedule(params, steps, total)
    factors = [schedule.factor(step) for step in range(total)]
    text = (
        f"learning rate of the backbone {params.lr.base_lr:g}, of the rest {params.lr.fc_lr:g}, "
        f"times {factors[0]:g} at the first step, {max(factors):g} at most, {factors[-1]:g} at the last"
    )
    if (idle := sum(factor < 1e-3 for factor in factors) / len(factors)) > 0.1:
        text += (
            f"\nwarning: for {idle:.0%} of the steps it is below a thousandth of its full value; "
            "check lr.decay_step and lr.decay_unit"
        )
    return text


def log_environment(folder: RunFolder, params: Params, device: torch.device) -> None:
    """Log versions, device and processes of a run."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy", "Pillow"))
    logger.info("run folder %s; Python %s, %s", folder.path, platform.python_version(), versions)
    logger.info("%s", describe_device(device))
    if (processes := this_process().world_size) > 1:
        logger.info("one of %d processes, each with a device of its own", processes)
        if params.model_params.spectral_trans:
            logger.info("the spectral transform sees the batch of each process apart")
        return
    for name in ("sync_bn", "gather_embeddings"):
        if getattr(params, name):
            logger.info("%s: no effect with one process", name)
