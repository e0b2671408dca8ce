"""What a run amounts to, before it begins: steps, images, parameters, learning rates."""

from collections.abc import Sequence

import torch

from config.params import Params
from data.samplers import epoch_batches
from data.samples import Sample, sorted_pids
from engine.schedule import lr_factor
from models.network import build_network
from utils.distributed import this_process


def num_processes(params: Params) -> int:
    """Processes that a run with these params has, or will have once it is started."""
    return max(this_process().world_size, len(params.parallels))


def batches_of_all(params: Params, labels: Sequence[int], epoch: int) -> list[list[int]]:
    """An epoch's batches over all processes, as indices of training images."""
    return epoch_batches(params, labels, params.seed, epoch, num_processes(params), params.accumulate_steps)


def describe_training(params: Params, train: Sequence[Sample]) -> str:
    """The arithmetic of a run: steps, images, identities, parameters, learning rates."""
    pids = sorted_pids(train)
    steps = len(batches_of_all(params, [sample.pid for sample in train], 0)) // params.accumulate_steps
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
    """How the learning rates run, with a warning where a slip in decay_step would leave nothing to learn with."""
    balanced = params.batch_sampling_params.class_balanced
    factors = [lr_factor(params.lr, step, steps, class_balanced=balanced) for step in range(params.epoch * steps)]
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
