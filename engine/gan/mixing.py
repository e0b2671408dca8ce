"""Generated images in the training of a re-ID network: by a generator that is done, or by one that learns along."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from config.params import Params
from data.samples import Sample
from engine.gan.adversaries import Adversaries, RealBatch
from engine.gan.conditions import ConditionNetwork
from engine.gan.snapshots import TrainedGenerator, load_generator
from engine.gan.training import as_pictures, build_adversaries, draw_mirrored
from evaluate.core.load_model import digest_of_weights
from losses.loss import Losses
from models.generator import Generator, pictures_as_bytes
from utils.distributed import this_process
from utils.errors import ParamsError
from utils.randomness import GENERATED, seed_for

logger = logging.getLogger(__name__)

SNAPSHOT = "gan_params.pretrain_snapshot_g"


class Made(NamedTuple):
    """Generated images of a batch, as if they had been read from files."""

    images: Tensor
    """(M, 3, H, W) uint8, of the size that training images are read in."""
    labels: Tensor | None
    """(M,) int64; None: they show nobody."""
    sources: Tensor | None
    """(M,) int64: the images of the batch that they were made from; None: from none."""


@dataclass(frozen=True)
class Mixing:
    """Makes the generated images of each batch.

    Without a condition a picture shows nobody. With one, it is made from the embedding of an image of the batch, and
    is to show the same person.
    """

    params: Params
    generator: Generator
    """Takes the noise; in evaluation mode."""
    conditions: Tensor | None
    """(N, D) the embeddings of the training images, on the device."""
    learner: Adversaries | None
    """Whose averaged generator it is; None: it is done, and stays as it is."""
    digest: str | None
    """Tells one generator that is done, and whom it shows, from another; of one that learns, the latter alone."""

    def acts(self, epoch: int) -> bool:
        """Whether the batches of an epoch, counted from 0, have generated images."""
        return epoch >= self.params.gan_params.mix_start_epoch

    @torch.no_grad()
    def make(self, indices: Sequence[int], labels: Tensor, number: int) -> Made:
        """The generated images that join a batch.

        Args:
            indices: the B images of the batch among the training images.
            labels: (B,) theirs.
            number: of the batch, counted over all epochs; the draws follow from it.
        """
        params, device = self.params, labels.device
        random = torch.Generator(device).manual_seed(seed_for(GENERATED, params.seed, number, this_process().rank))
        count = num_generated(params)
        noise = torch.randn(count, self.generator.input_dim, generator=random, device=device)
        if self.conditions is None:
            return Made(self._as_read(self.generator(noise)), None, None)
        # Each image of the batch once before any is taken again.
        turns = -(-count // len(labels))
        orders = [torch.randperm(len(labels), generator=random, device=device) for _ in range(turns)]
        sources = torch.cat(orders)[:count]
        pictures = self.generator(noise, self._conditions_of(indices)[sources])
        return Made(self._as_read(pictures), labels[sources], sources)

    def real(self, images: Tensor, indices: Sequence[int], number: int) -> RealBatch | None:
        """What the learner gets of a batch's images (B, 3, H, W) uint8 as they were read; None without one."""
        if self.learner is None:
            return None
        height = self.generator.height
        pictures = as_pictures(images, draw_mirrored(self.params, len(images), number, images.device))
        if pictures.shape[2:] != (height, height // 2):
            pictures = F.interpolate(pictures, (height, height // 2), mode="bilinear", antialias=True)
        return RealBatch(pictures, None if self.conditions is None else self._conditions_of(indices))

    def learn(self, batch: RealBatch | None, number: int) -> dict[str, Tensor]:
        """A step of the learner, if there is one, and what it came to: scalars by name.

        A batch serves for all updates of the discriminator in the step, each time changed at random and compared to
        other generated pictures.
        """
        if self.learner is None or batch is None:
            return {}
        found: Losses = self.learner.step([batch] * self.params.gan_params.d_update_freq, number)
        return {f"gan_{name}": value for name, value in {**found.losses, **found.metrics}.items()}

    def state(self) -> dict[str, Any]:
        """What the next images follow from besides the seed; nothing where the generator is done."""
        return {} if self.learner is None else self.learner.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        if self.learner is not None:
            self.learner.restore(state)

    def check(self, step: int) -> None:
        """See that the learner, if there is one, is not lost; waits for the device.

        Raises:
            DivergedError: it is.
        """
        if self.learner is not None:
            self.learner.check(step)

    def _conditions_of(self, indices: Sequence[int]) -> Tensor:
        """The embeddings (B, D) of training images."""
        assert self.conditions is not None
        places = torch.tensor(indices)
        if self.conditions.device.type == "cuda":
            # Out of page-locked memory nobody waits for the copy.
            places = places.pin_memory()
        return self.conditions[places.to(self.conditions.device, non_blocking=True)]

    def _as_read(self, pictures: Tensor) -> Tensor:
        size = self.params.resize_to
        if pictures.shape[2:] != size:
            pictures = F.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
        return pictures_as_bytes(pictures).contiguous(memory_format=torch.channels_last)


def num_generated(params: Params) -> int:
    """M, the generated images that join each batch."""
    return round(params.gan_params.mix_ratio * params.batch_images)


class Chosen(NamedTuple):
    """Where generated images are to come from, found and checked."""

    trained: TrainedGenerator | None
    """None: a generator is trained along."""
    network: ConditionNetwork | None


def check_mixing(params: Params) -> Chosen | None:
    """See that what `gan_params` names for generated images is there and fits; None if there are to be none.

    Raises:
        DataError: there is no such generator, or not the network whose embeddings it is made for.
        ParamsError: what is set does not fit the generator, or several processes would train one.
    """
    gan = params.gan_params
    if gan.mix_ratio == 0:
        return None
    if gan.adv_train:
        if this_process().world_size > 1:
            raise ParamsError(
                f"gan_params.adv_train: trains the generator on one device, and there are {this_process().world_size} "
                f"processes; train it before with train_gan, and name it as {SNAPSHOT}"
            )
        return Chosen(None, ConditionNetwork(gan.condition) if gan.condition else None)
    trained = load_generator(Path(gan.pretrain_snapshot_g), SNAPSHOT)
    if trained.generator.condition_dim:
        # Where the network lies that the generator was trained with; it may have been moved since.
        network = ConditionNetwork(gan.condition or trained.params.gan_params.condition)
        network.check_signed(trained.generator, gan.pretrain_snapshot_g)
        return Chosen(trained, network)
    for name in ("lambda_consistency", "condition"):
        if getattr(gan, name):
            raise ParamsError(f"gan_params.{name}: has no effect, as the generator of {SNAPSHOT} shows nobody known")
    return Chosen(trained, None)


def describe_mixing(params: Params, chosen: Chosen) -> str:
    """What generated images there will be."""
    whom = "nobody in particular" if chosen.network is None else "persons of the batch"
    along = "" if chosen.trained else ", by a generator that learns along"
    start = params.gan_params.mix_start_epoch
    since = f" from epoch {start + 1} on" if start else ""
    return f"{num_generated(params)} generated images of {whom} join each batch of {params.batch_images}{since}{along}"


def build_mixing(params: Params, train: Sequence[Sample], device: torch.device, *, resume: bool) -> Mixing | None:
    """What `gan_params` says of generated images in the training of a re-ID network; None if there are to be none.

    Args:
        params: of the run.
        train: its training images.
        device: where pictures are made.
        resume: whether the weights of a generator that is trained along will come from a saved state.

    Raises:
        DataError, ParamsError: as `check_mixing`.
    """
    chosen = check_mixing(params)
    if chosen is None:
        return None
    trained, network = chosen
    logger.info("%s", describe_mixing(params, chosen))
    conditions = None if network is None else network.embed(train, device)
    digest = None if network is None else network.digest
    if trained is None:
        learner = build_adversaries(params, network, device, resume=resume)
        return Mixing(params, learner.average, conditions, learner, digest)
    generator = trained.generator.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    # A conditioned generator is signed with the digest of its network.
    return Mixing(params, generator, conditions, None, digest_of_weights(generator.state_dict()))
