"""Generated images in the training of a re-ID network, by a trained generator or one that is trained along."""

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
from engine.run import RunFolder
from evaluate.core.load_model import digest_of_weights
from gan.checkpoint import TrainedGenerator, generator_checkpoint, load_generator
from gan.conditions import ConditionNetwork
from gan.sampling import sample_grid
from gan.steps import GanStepper, RealBatch, build_stepper, real_pictures
from losses.loss import Losses
from models.generator import Generator, pictures_as_bytes
from utils.checkpoint import save_checkpoint
from utils.device import to_device
from utils.distributed import this_process
from utils.errors import ParamsError
from utils.randomness import GENERATED, seed_for

logger = logging.getLogger(__name__)

SNAPSHOT = "gan_params.pretrain_snapshot_g"


@dataclass(frozen=True)
class GeneratedImages:
    """Generated images that join the batches of a re-ID training.

    An unconditional generator shows nobody in particular. A conditioned one gets the embedding of an image of the
    batch, and its picture has the label of that image.
    """

    params: Params
    generator: Generator
    """In evaluation mode."""
    conditions: Tensor | None
    """(N, D) embeddings of the training images, on the device; None for an unconditional generator."""
    learner: GanStepper | None
    """Trains the generator, which is its average; None: the generator stays as it is."""
    digest: str | None
    """Of a trained generator's weights; with a learner, of the network it is conditioned on."""

    @torch.no_grad()
    def make(self, epoch: int, indices: Sequence[int], labels: Tensor, number: int) -> ExtraBatch | None:
        """The generated images that join batch `number`; all draws follow from seed and number."""
        params, device = self.params, labels.device
        if epoch < params.gan_params.mix_start_epoch:
            return None
        random = torch.Generator(device).manual_seed(seed_for(GENERATED, params.seed, number, this_process().rank))
        noise = torch.randn(params.num_generated, self.generator.input_dim, generator=random, device=device)
        if self.conditions is None:
            return ExtraBatch(self._as_read(self.generator(noise)))
        # Every image of the batch is a source once before any is a second time.
        turns = -(-params.num_generated // len(labels))
        orders = [torch.randperm(len(labels), generator=random, device=device) for _ in range(turns)]
        sources = torch.cat(orders)[: params.num_generated]
        pictures = self.generator(noise, self._conditions_of(indices)[sources])
        return ExtraBatch(self._as_read(pictures), labels[sources], sources)

    def learn(self, batch: TrainBatch, losses: Losses) -> Losses:
        """Take a step of the learner, if there is one; adds its losses to the metrics.

        All updates of the discriminator in the step see the same batch, augmented anew, and other generated pictures.
        """
        if self.learner is None:
            return losses
        # One process trains the generator, so these are all images of the batch.
        real = self._real(batch.images, batch.indices, batch.number)
        learnt = self.learner.step([real] * self.params.gan_params.d_update_freq, batch.number)
        metrics = {f"gan_{name}": value for name, value in {**learnt.losses, **learnt.metrics}.items()}
        return losses._replace(metrics={**losses.metrics, **metrics})

    def check(self, step: int) -> None:
        """Check that weights and losses of the learner, if there is one, are finite; synchronises with the device.

        Raises:
            DivergedError: they are not.
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
            checkpoint = generator_checkpoint(self.generator, self.learner.discriminator, self.params, pids, {})
            save_checkpoint(folder.generator, checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """The learner's state; empty without one."""
        return {} if self.learner is None else self.learner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        if self.learner is not None:
            self.learner.load_state_dict(state_dict)

    def _real(self, images: Tensor, indices: Sequence[int], number: int) -> RealBatch:
        """The images (B, 3, H, W) uint8 of a batch, as they were read, as the learner sees them."""
        height = self.generator.height
        pictures = real_pictures(images, number, self.params)
        if pictures.shape[2:] != (height, height // 2):
            mode = self.params.data_augmentation.interpolation
            # Bicubic interpolation overshoots at edges.
            pictures = F.interpolate(pictures, (height, height // 2), mode=mode, antialias=True).clamp_(-1, 1)
        return RealBatch(pictures, None if self.conditions is None else self._conditions_of(indices))

    def _conditions_of(self, indices: Sequence[int]) -> Tensor:
        """The embeddings (B, D) of training images."""
        assert self.conditions is not None
        return self.conditions[to_device(torch.tensor(indices), self.conditions.device)]

    def _as_read(self, pictures: Tensor) -> Tensor:
        """Pictures as uint8 images of the size that files are read at."""
        resize = self.params.train_resize
        if pictures.shape[2:] != resize[:2]:
            pictures = F.interpolate(pictures.float(), resize[:2], mode=resize.interpolation, antialias=True)
        return pictures_as_bytes(pictures).contiguous(memory_format=torch.channels_last)


class Source(NamedTuple):
    """Where generated images come from."""

    trained: TrainedGenerator | None
    """None: the generator is trained along."""
    network: ConditionNetwork | None
    """None: the generator is unconditional."""


def find_source(params: Params) -> Source:
    """Load what `gan_params` names for generated images, and check that it fits.

    Raises:
        DataError: there is no such generator, or not the network it was conditioned on.
        ParamsError: a setting does not fit the generator, or several processes would train one.
    """
    gan = params.gan_params
    if gan.adv_train:
        if this_process().world_size > 1:
            raise ParamsError(
                f"gan_params.adv_train: trains the generator on one device, and there are {this_process().world_size} "
                f"processes; train it before with train_gan, and name it as {SNAPSHOT}"
            )
        return Source(None, ConditionNetwork(gan.condition) if gan.condition else None)
    trained = load_generator(Path(gan.pretrain_snapshot_g), SNAPSHOT)
    if trained.generator.condition_dim:
        # The params name a network that has been moved since the generator was trained.
        network = ConditionNetwork(gan.condition or trained.params.gan_params.condition)
        network.check_digest(trained.generator, gan.pretrain_snapshot_g)
        return Source(trained, network)
    for name in ("lambda_consistency", "condition"):
        if getattr(gan, name):
            raise ParamsError(f"gan_params.{name}: has no effect, as the generator of {SNAPSHOT} is unconditional")
    return Source(trained, None)


def check_generated_images(params: Params) -> str:
    """Check where generated images come from; a line about them. Raises as `find_source`."""
    return describe_source(params, find_source(params))


def describe_source(params: Params, source: Source) -> str:
    """The generated images of a run, in a line."""
    whom = "nobody in particular" if source.network is None else "persons of the batch"
    along = "" if source.trained else ", by a generator that is trained along"
    start = params.gan_params.mix_start_epoch
    since = f" from epoch {start + 1} on" if start else ""
    return f"{params.num_generated} generated images of {whom} join each batch of {params.batch_images}{since}{along}"


def build_generated_images(
    params: Params, train: Sequence[Sample], device: torch.device, resume: bool
) -> GeneratedImages:
    """The generated images that `gan_params` asks for; its `mix_ratio` must not be 0.

    Args:
        params: of the run.
        train: its training images.
        device: where pictures are made.
        resume: whether the weights of a generator that is trained along will come from a saved state.

    Raises:
        DataError, ParamsError: as `find_source`.
    """
    source = find_source(params)
    trained, network = source
    logger.info("%s", describe_source(params, source))
    conditions = None if network is None else network.embed(train, device)
    if trained is None:
        learner = build_stepper(params, network, device, resume=resume)
        return GeneratedImages(params, learner.average, conditions, learner, network and network.digest)
    generator = trained.generator.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    # The weights of a conditioned generator hold the digest of its network.
    return GeneratedImages(params, generator, conditions, None, digest_of_weights(generator.state_dict()))
