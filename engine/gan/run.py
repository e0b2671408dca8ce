"""The kind of run that trains a person generator."""

import logging

import torch

from config.params import Params
from engine.gan.fit import begin_generator, fit_generator
from engine.gan.training import GanTraining, build_gan_training, describe_gan_training, read_gan_data
from engine.run import Kind
from utils.distributed import this_process
from utils.errors import ParamsError
from utils.memory import explain_oom

logger = logging.getLogger(__name__)


def _build(params: Params, device: torch.device, resume: bool) -> GanTraining:
    if this_process().world_size > 1:
        raise ParamsError(f"a generator is trained by one process, and there are {this_process().world_size}")
    dataset = read_gan_data(params)
    logger.info("%s", describe_gan_training(params, len(dataset.train)))
    advice = 'set data_cache to "ram" if it is "device", or lower gan_params.ngf and ndf'
    with explain_oom(f"putting the generator and the images on {device}", advice):
        return build_gan_training(params, dataset, device, resume=resume)


GENERATOR = Kind(
    "train_gan", _build, begin_generator, fit_generator, lambda folder: folder.generator, "gan_params.epoch"
)
