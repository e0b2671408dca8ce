"""Generator and discriminator with the weights that their training starts from."""

import torch

from config.params import Params
from gan.checkpoint import OF_DISCRIMINATOR, OF_GENERATOR, start_from
from gan.conditions import ConditionNetwork
from gan.steps import GanStepper
from models.generator import build_discriminator, build_generator
from utils.randomness import INITIAL_WEIGHTS, seed_for


def build_stepper(
    params: Params, network: ConditionNetwork | None, device: torch.device, *, resume: bool = False
) -> GanStepper:
    """Generator and discriminator of `gan_params` on their device, with the weights training starts from.

    Args:
        params: of the run.
        network: whose embeddings they are conditioned on; None: on none.
        device: where they compute.
        resume: whether their weights will come from a saved state.

    Raises:
        DataError: a snapshot cannot be read or does not fit.
    """
    gan = params.gan_params
    condition_dim = 0 if network is None else network.dim
    torch.manual_seed(seed_for(INITIAL_WEIGHTS, params.seed))
    generator, discriminator = build_generator(gan, condition_dim), build_discriminator(gan, condition_dim)
    if not resume:
        start_from(generator, OF_GENERATOR, gan.pretrain_snapshot_g, "gan_params.pretrain_snapshot_g")
        start_from(discriminator, OF_DISCRIMINATOR, gan.pretrain_snapshot_d, "gan_params.pretrain_snapshot_d")
    if network is not None:
        network.sign(generator)
    for net in (generator, discriminator):
        # Channels last is the layout in which convolutions are fastest, on the CPU as on a GPU.
        net.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return GanStepper(generator, discriminator, gan, params.seed)
