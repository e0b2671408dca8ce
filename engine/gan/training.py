"""Puts the training of a generator together: data, networks, what it is measured by, and what must be saved."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config.params import Params
from data.cache import ImageStore, build_store
from data.dataset import read_dataset, summary_table, without_bad_images
from data.samplers import random_batches
from data.samples import Dataset, Sample, sorted_pids
from engine.belonging import belonging_of
from engine.gan.adversaries import Adversaries, RealBatch
from engine.gan.conditions import ConditionNetwork
from engine.gan.quality import Quality, build_quality
from engine.gan.snapshots import OF_DISCRIMINATOR, OF_GENERATOR, start_from
from engine.resumable import Resumable
from models.generator import build_discriminator, build_generator
from utils.errors import DataError, ParamsError
from utils.randomness import INITIAL_WEIGHTS, REAL_PICTURES, seed_for

logger = logging.getLogger(__name__)

MIN_IMAGES = 6
"""As many real images as measuring a generator needs."""


@dataclass(kw_only=True)
class GanTraining(Resumable):
    """The training of a person generator."""

    pids: list[int]
    """Sorted pids of the persons it learns from."""
    samples: list[Sample]
    """The N training images."""
    store: ImageStore
    """Serves them in the size of the generated ones."""
    conditions: Tensor | None
    """(N, D) their embeddings on the device; None where the generator is not conditioned."""
    adversaries: Adversaries
    quality: Quality | None
    """Measures the generator; None: nothing does."""

    def batches(self, epoch: int) -> list[list[int]]:
        """An epoch's batches as indices of training images, a whole number of steps of them."""
        rng = np.random.default_rng([self.params.seed, epoch])
        gan = self.params.gan_params
        return random_batches(len(self.samples), gan.batch_size, rng, gan.d_update_freq)

    def real(self, images: Tensor, indices: Tensor, number: int) -> RealBatch:
        """What the discriminator gets of loaded images (B, 3, H, W) uint8, the training images `indices` (B,).

        Args:
            number: of the batch, counted over all epochs; says which images are mirrored.
        """
        conditions = None if self.conditions is None else self.conditions[indices]
        return RealBatch(as_pictures(images, draw_mirrored(self.params, len(images), number, self.device)), conditions)

    def parts(self) -> dict[str, Any]:
        """The networks and their optimizers."""
        return {"adversaries": self.adversaries.state()}

    def restore_parts(self, state: dict[str, Any]) -> None:
        """Take over what `parts` gave."""
        self.adversaries.restore(state["adversaries"])

    def updated_tensors(self) -> Sequence[Tensor]:
        """None: networks as small as these are copied at once when the state is saved."""
        return ()


def read_gan_data(params: Params) -> Dataset:
    """The data set, checked and summarised.

    Raises:
        DataError: it cannot be used, or has too few training images.
        ParamsError: a batch is more than all of them.
    """
    dataset = without_bad_images(read_dataset(params), params)
    logger.info("data set %s\n%s", params.batches_dir, summary_table(dataset))
    number, batch_size = len(dataset.train), params.gan_params.batch_size
    if number < MIN_IMAGES:
        raise DataError(
            f"{params.batches_dir}: {number} training images; a generator learns from at least {MIN_IMAGES}"
        )
    if batch_size > number:
        raise ParamsError(f"gan_params.batch_size: {batch_size} is more than the {number} training images; lower it")
    return dataset


def describe_gan_training(params: Params, num_images: int) -> str:
    """The arithmetic of a run."""
    gan = params.gan_params
    steps = -(-num_images // (gan.batch_size * gan.d_update_freq))
    updates = "" if gan.d_update_freq == 1 else f", in each {gan.d_update_freq} updates of the discriminator"
    whom = "anybody" if not gan.condition else "whoever an embedding says"
    return (
        f"{gan.epoch} epochs of {steps} steps{updates}, of {gan.batch_size} images each; "
        f"pictures of {gan.img_h}x{gan.img_h // 2} of {whom}"
    )


def build_gan_training(params: Params, dataset: Dataset, device: torch.device, *, resume: bool = False) -> GanTraining:
    """Build everything a run needs. Initial weights and all later draws follow from `params.seed`.

    A run to `resume` gets its weights from its saved state, so the snapshots it started from are not read again.
    """
    gan = params.gan_params
    samples = dataset.train
    network = ConditionNetwork(gan.condition) if gan.condition else None
    conditions = None if network is None else network.embed(samples, device)
    store = build_store([sample.path for sample in samples], gan.img_h, gan.img_h // 2, params.data_cache, device)
    adversaries = build_adversaries(params, network, device, resume=resume)
    steps = len(random_batches(len(samples), gan.batch_size, np.random.default_rng(0), gan.d_update_freq))
    if gan.preheat_steps >= gan.epoch * (steps // gan.d_update_freq):
        total = gan.epoch * (steps // gan.d_update_freq)
        raise ParamsError(f"gan_params.preheat_steps: {gan.preheat_steps} of {total} steps leave none to the generator")
    quality = build_quality(params, dataset, store, conditions, device)
    means = {
        "kind of device": device.type,
        "network of gan_params.condition": None if network is None else network.digest,
        "network of gan_params.measured_by": None if quality is None else quality.measurer.digest,
    }
    return GanTraining(
        params=params,
        device=device,
        num_epochs=gan.epoch,
        steps_per_epoch=steps // gan.d_update_freq,
        belongs_to=belonging_of(params, dataset, means),
        pids=sorted_pids(samples),
        samples=samples,
        store=store,
        conditions=conditions,
        adversaries=adversaries,
        quality=quality,
    )


def build_adversaries(
    params: Params, network: ConditionNetwork | None, device: torch.device, *, resume: bool = False
) -> Adversaries:
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
    return Adversaries(generator, discriminator, gan, params.seed)


def draw_mirrored(params: Params, count: int, number: int, device: torch.device) -> Tensor | None:
    """Which of the real images of a batch are mirrored, (count,) bool; None: none is to be."""
    if not params.data_augmentation.mirror:
        return None
    random = torch.Generator(device).manual_seed(seed_for(REAL_PICTURES, params.seed, number))
    return torch.rand(count, generator=random, device=device) < 0.5


def as_pictures(images: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Images (B, 3, H, W) uint8 -> float in -1..1, channels last, those of `mirrored` (B,) bool left-right."""
    pictures = images.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
    return pictures if mirrored is None else torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)
