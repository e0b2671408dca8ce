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
from engine.batches import ExtraBatch, TrainBatch
from engine.run_folder import RunFolder
from evaluate.core.load_model import digest_of_weights
from gan.build import build_stepper
from gan.checkpoint import TrainedGenerator, checkpoint_of, load_generator
from gan.conditions import ConditionNetwork
from gan.sampling import sample_grid
from gan.steps import GanStepper, RealBatch, as_pictures, draw_mirrored
from losses.loss import Losses
from models.generator import Generator, pictures_as_bytes
from utils.checkpoint import save_checkpoint
from utils.distributed import this_process
from utils.errors import ParamsError
from utils.randomness import GENERATED, seed_for

logger = logging.getLogger(__name__)

SNAPSHOT = "gan_params.pretrain_snapshot_g"


@dataclass(frozen=True)
class GeneratedImages:
    """Generated images that join the batches of a re-ID training.

    Without a condition a picture shows nobody. With one, it is made from the embedding of an image of the batch, and
    is to show the same person.
    """

    params: Params
    generator: Generator
    """Takes the noise; in evaluation mode."""
    conditions: Tensor | None
    """(N, D) the embeddings of the training images, on the device."""
    learner: GanStepper | None
    """Whose averaged generator it is; None: it is trained already, and stays as it is."""
    digest: str | None
    """Tells one trained generator, and the network it is conditioned on, from another; of a learner the latter only."""

    @property
    def num_images(self) -> int:
        """M, the generated images that join each batch."""
        return num_generated(self.params)

    @torch.no_grad()
    def make(self, epoch: int, indices: Sequence[int], labels: Tensor, number: int) -> ExtraBatch | None:
        """The generated images that join batch `number`; the draws follow from it."""
        params, device = self.params, labels.device
        if epoch < params.gan_params.mix_start_epoch:
            return None
        random = torch.Generator(device).manual_seed(seed_for(GENERATED, params.seed, number, this_process().rank))
        noise = torch.randn(self.num_images, self.generator.input_dim, generator=random, device=device)
        if self.conditions is None:
            return ExtraBatch(self._as_read(self.generator(noise)))
        # Each image of the batch once before any is taken again.
        turns = -(-self.num_images // len(labels))
        orders = [torch.randperm(len(labels), generator=random, device=device) for _ in range(turns)]
        sources = torch.cat(orders)[: self.num_images]
        pictures = self.generator(noise, self._conditions_of(indices)[sources])
        return ExtraBatch(self._as_read(pictures), labels[sources], sources)

    def learn(self, batch: TrainBatch, losses: Losses) -> Losses:
        """A step of the learner, if there is one.

        A batch serves for all updates of the discriminator in the step, each time changed at random and compared to
        other generated pictures.
        """
        if self.learner is None:
            return losses
        # Generators are trained by one process, so that the batch is all its own.
        real = self._real(batch.images, batch.indices, batch.number)
        found = self.learner.step([real] * self.params.gan_params.d_update_freq, batch.number)
        more = {f"gan_{name}": value for name, value in {**found.losses, **found.metrics}.items()}
        return losses._replace(metrics={**losses.metrics, **more})

    def check(self, step: int) -> None:
        """Check that the learner, if there is one, is not lost; waits for the device.

        Raises:
            DivergedError: it is.
        """
        if self.learner is not None:
            self.learner.check(step)

    def pictures(self) -> dict[str, Tensor]:
        """Samples of the learner."""
        if self.learner is None:
            return {}
        return {"samples": sample_grid(self.generator, self.conditions, self.params.seed)}

    def save(self, folder: RunFolder, pids: Sequence[int]) -> None:
        """Write the learner's generator.

        Raises:
            DataError: it cannot be written.
        """
        if self.learner is not None and this_process().is_rank_zero:
            save_checkpoint(folder.generator, checkpoint_of(self.learner, self.params, pids, {}))

    def state_dict(self) -> dict[str, Any]:
        """The learner's state; nothing where there is none."""
        return {} if self.learner is None else self.learner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        if self.learner is not None:
            self.learner.load_state_dict(state_dict)

    def _real(self, images: Tensor, indices: Sequence[int], number: int) -> RealBatch:
        """What the learner sees of a batch's images (B, 3, H, W) uint8 as they were read."""
        height = self.generator.height
        pictures = as_pictures(images, draw_mirrored(self.params, len(images), number, images.device))
        if pictures.shape[2:] != (height, height // 2):
            pictures = F.interpolate(pictures, (height, height // 2), mode="bilinear", antialias=True)
        return RealBatch(pictures, None if self.conditions is None else self._conditions_of(indices))

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


class Source(NamedTuple):
    """Where generated images are to come from, found and checked."""

    trained: TrainedGenerator | None
    """None: a generator is trained along."""
    network: ConditionNetwork | None


def find_source(params: Params) -> Source | None:
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
        return Source(None, ConditionNetwork(gan.condition) if gan.condition else None)
    trained = load_generator(Path(gan.pretrain_snapshot_g), SNAPSHOT)
    if trained.generator.condition_dim:
        # Where the network lies that the generator was trained with; it may have been moved since.
        network = ConditionNetwork(gan.condition or trained.params.gan_params.condition)
        network.check_signed(trained.generator, gan.pretrain_snapshot_g)
        return Source(trained, network)
    for name in ("lambda_consistency", "condition"):
        if getattr(gan, name):
            raise ParamsError(f"gan_params.{name}: has no effect, as the generator of {SNAPSHOT} shows nobody known")
    return Source(trained, None)


def check_generated_images(params: Params) -> str:
    """Check where generated images come from; a line about them, "" if there are none. Raises as `find_source`."""
    source = find_source(params)
    return "" if source is None else describe_source(params, source)


def describe_source(params: Params, chosen: Source) -> str:
    """What generated images there will be."""
    whom = "nobody in particular" if chosen.network is None else "persons of the batch"
    along = "" if chosen.trained else ", by a generator that learns along"
    start = params.gan_params.mix_start_epoch
    since = f" from epoch {start + 1} on" if start else ""
    return f"{num_generated(params)} generated images of {whom} join each batch of {params.batch_images}{since}{along}"


def build_generated_images(
    params: Params, train: Sequence[Sample], device: torch.device, resume: bool
) -> GeneratedImages | None:
    """What `gan_params` says of generated images in the training of a re-ID network; None if there are to be none.

    Args:
        params: of the run.
        train: its training images.
        device: where pictures are made.
        resume: whether the weights of a generator that is trained along will come from a saved state.

    Raises:
        DataError, ParamsError: as `find_source`.
    """
    chosen = find_source(params)
    if chosen is None:
        return None
    trained, network = chosen
    logger.info("%s", describe_source(params, chosen))
    conditions = None if network is None else network.embed(train, device)
    digest = None if network is None else network.digest
    if trained is None:
        learner = build_stepper(params, network, device, resume=resume)
        return GeneratedImages(params, learner.average, conditions, learner, digest)
    generator = trained.generator.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    # A conditioned generator is signed with the digest of its network.
    return GeneratedImages(params, generator, conditions, None, digest_of_weights(generator.state_dict()))
