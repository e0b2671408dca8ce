"""A summary of a run before it starts: steps, images, parameters, learning rates, versions and device."""

import logging
import platform
from collections.abc import Sequence
from importlib.metadata import version

import torch
from torch import nn

from config.params import Params
from data.samples import Sample
from engine.batches import batches_of_epoch, num_processes
from engine.optim import describe_groups, group_rule, named_parameters, parameter_groups
from engine.run import RunFolder, TrainingPlan
from engine.schedules import Schedule
from models.backbones.registry import TIMM
from models.network import ReidNetwork, build_network
from utils.device import describe_device
from utils.distributed import this_process
from utils.precision import choose_precision

logger = logging.getLogger(__name__)


def plan_training(params: Params, train: Sequence[Sample], device: torch.device) -> TrainingPlan:
    """The plan of a re-ID training.

    Args:
        params: of the run.
        train: the training images.
        device: of this process.
    """
    pids, camids = [sample.pid for sample in train], [sample.camid for sample in train]
    options, precision = params.evaluation_params, choose_precision(params.precision, device).name
    images = f"{params.batch_images + params.num_generated} images of {params.img_h} x {params.img_w}"
    lower = "batch_sampling_params.P or K" if params.batch_sampling_params.class_balanced else "batch_size"
    halved = ' or set precision "bf16", which halves the activations' if precision == "fp32" else ""
    on_device = device.type == "cuda" and params.data_cache in ("auto", "device")
    cached = ', set data_cache to "ram" (the images take memory of the device, too)' if on_device else ""
    advice = f"lower {lower} (accumulate_steps makes up for it), img_h and img_w{cached}, take a smaller model{halved}"
    if params.is_unsupervised:
        steps = params.clustering_params.iterations
    else:
        steps = len(batches_of_epoch(params, pids, 0, camids)) // params.accumulate_steps
    return TrainingPlan(
        num_epochs=params.epoch,
        steps_per_epoch=steps,
        images_per_step=params.batch_images * params.accumulate_steps * num_processes(params),
        evaluate_every=0 if options.type is None else options.every_epochs,
        evaluate_at_start=options.at_start,
        memory_use=f"training on {device} with {images} a batch in {precision}",
        memory_advice=advice,
    )


def describe_training(
    params: Params, plan: TrainingPlan, schedule: Schedule, num_classes: int, camids: Sequence[int] = ()
) -> str:
    """The arithmetic of a run: steps, images, identities, parameters, learning rates.

    Args:
        params, plan, schedule: of the run.
        num_classes: N; 0 = training without labels.
        camids: cameras of the training set.
    """
    images, devices = params.batch_images * params.accumulate_steps, num_processes(params)
    spread = f" on each of {devices} devices" if devices > 1 else ""
    with torch.device("meta"):
        network = build_network(params.model_params, num_classes, (params.img_h, params.img_w), camids)
    count = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    return (
        f"{plan.num_epochs} epochs of {plan.steps_per_epoch} steps of {images} images{spread}; "
        f"{f'{num_classes} identities' if num_classes else 'without labels'}\n"
        f"{params.model_params.model} with {count:.2f} million parameters, embedding of {network.embedding_dim}\n"
        f"{_describe_rates(params, network, schedule, plan.num_epochs * plan.steps_per_epoch)}"
    )


def _describe_rates(params: Params, network: ReidNetwork, schedule: Schedule, total_steps: int) -> str:
    """The course of the learning rates and who has which, with a warning where a slip would leave them near zero."""
    groups = parameter_groups(named_parameters(network, nn.Identity()), group_rule(params, network.backbone), params)
    factors = [schedule.factor(step) for step in range(total_steps)]
    text = (
        f"learning rate of the backbone {params.lr.base_lr:g}, of the rest {params.lr.fc_lr:g},\n"
        f"  times {factors[0]:g} at the first step, {max(factors):g} at most, {factors[-1]:g} at the last"
    )
    if len(groups) > 2:
        text += f"\nparameters by learning rate:\n{describe_groups(groups)}"
    if (idle := sum(factor < 1e-3 for factor in factors) / len(factors)) > 0.1:
        text += (
            f"\nwarning: for {idle:.0%} of the steps it is below a thousandth of its full value; "
            f"check {'lr.decay_step and lr.decay_unit' if params.lr.schedule == 'step' else 'lr.poly_power'}"
        )
    return text


def log_environment(folder: RunFolder, params: Params, device: torch.device) -> None:
    """Log versions, device and processes of a run."""
    used = ("timm",) if params.model_params.model.startswith(TIMM) else ()
    names = ("torch", "torchvision", *used, "numpy", "Pillow")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    logger.info("run folder %s; Python %s", folder.path, platform.python_version())
    logger.info("%s", versions)
    logger.info("%s", describe_device(device))
    if (processes := this_process().world_size) > 1:
        logger.info("one of %d processes, each with a device of its own", processes)
        if params.model_params.spectral_trans:
            logger.info("the spectral transform sees the batch of each process apart")
        return
    for name in ("sync_bn", "gather_embeddings"):
        if getattr(params, name):
            logger.info("%s: no effect with one process", name)
