"""What each training step sees: augmented images with their labels, a teacher's output, and extra images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from config.params import Params
from data.augmentation.apply import augment
from data.augmentation.params import AugmentParams, sample
from data.cache import ImageStore
from data.loader import Batch, load_batches
from data.samplers import epoch_batches
from engine.run import RunFolder
from engine.teacher import Teacher
from losses.loss import Losses, TeacherOutput
from utils.device import to_device
from utils.distributed import this_process
from utils.precision import Precision
from utils.randomness import (
    AUGMENTATION,
    GENERATED_AUGMENTATION,
    GENERATED_PIXELS,
    MODEL,
    PIXELS,
    default_generator,
    seed_for,
)


class ExtraBatch(NamedTuple):
    """Images of another source that join a batch."""

    images: Tensor
    """(M, 3, H, W): uint8 as if read from files, or augmented and normalised."""
    labels: Tensor | None = None
    """(M,) int64; None: they show no identity."""
    sources: Tensor | None = None
    """(M,) int64: the images of the batch they were made from; None: from none."""


class TrainBatch(NamedTuple):
    """What one forward pass sees."""

    pixels: Tensor
    """(B, 3, H, W), augmented and normalised."""
    labels: Tensor
    """(B,) int64."""
    taught: TeacherOutput | None
    """The teacher's output for the same pixels; None without a teacher."""
    extra: ExtraBatch | None
    """Extra images, augmented and normalised; None where there are none."""
    images: Tensor
    """(B, 3, H, W) uint8, as read."""
    indices: Sequence[int]
    """The training images of the batch of all processes."""
    number: int
    """Of the batch, counted over all epochs."""
    camids: Tensor | None = None
    """(B,) int64, the cameras; None where nothing asks for them."""


class ExtraImages(Protocol):
    """Another source of training images, such as a generator, which may learn along with the network."""

    @property
    def digest(self) -> str | None:
        """Tells one source from another: a run is only resumed with the same."""
        ...

    def make(self, epoch: int, indices: Sequence[int], labels: Tensor, number: int) -> ExtraBatch | None:
        """The images that join a batch, uint8; None: none in this epoch.

        Args:
            epoch: counted from 0.
            indices: this process's B images of the batch.
            labels: (B,) theirs.
            number: of the batch, counted over all epochs; the draws follow from it.
        """
        ...

    def learn(self, batch: TrainBatch, losses: Losses) -> Losses:
        """Learn from a batch that the network has learnt from; adds metrics to its losses."""
        ...

    def check(self, step: int) -> None:
        """Raise DivergedError if what learns along is lost; waits for the device."""
        ...

    def pictures(self) -> dict[str, Tensor]:
        """Samples to look at, (N, 3, H, W) uint8 by name."""
        ...

    def save(self, folder: RunFolder, pids: Sequence[int]) -> None:
        """Write what has learnt along into the folder of a run that is done."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the next images depend on besides the seed."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        ...


class TrainBatches:
    """The batches of a training; every draw follows from the seed and the number of the batch.

    The augmentation of a batch is drawn for the images of all processes from one seed, and each process takes its part:
    the result does not depend on how many processes share the work. Noise and random pixels alone, which are many
    numbers, each process draws for its own images.

    Args:
        params: of the run.
        paths: the training images' files.
        labels: their class indices (N,) int64, on the CPU.
        pids: sorted pids; the position is the class index.
        store: serves the decoded images.
        precision: number format of the network's activations.
        device: of this process.
        teacher: looks at every batch; None without distillation.
        extra_images: adds images of another source; None: there are none.
        camids: the training images' cameras (N,) int64, on the CPU; None where nothing asks for them.
    """

    def __init__(
        self,
        params: Params,
        paths: list[Path],
        labels: Tensor,
        pids: list[int],
        store: ImageStore,
        precision: Precision,
        device: torch.device,
        teacher: Teacher | None = None,
        extra_images: ExtraImages | None = None,
        camids: Tensor | None = None,
    ) -> None:
        self.params = params
        self.paths = paths
        self.labels = labels
        self.pids = pids
        self.store = store
        self.precision = precision
        self.device = device
        self.teacher = teacher
        self.extra_images = extra_images
        self.camids = camids
        self.pixel_generator = torch.Generator(device)

    def steps(self, epoch: int, first_step: int, batches: list[list[int]] | None = None) -> Iterator[list[TrainBatch]]:
        """The batches of each step of an epoch, as many as gradients are accumulated over.

        Args:
            epoch: counted from 0.
            first_step: the first one wanted, counted over all epochs.
            batches: those of the epoch over all processes, as indices of training images; None: as `labels` say.
        """
        dist, accumulate = this_process(), self.params.accumulate_steps
        if batches is None:
            camids = () if self.camids is None else self.camids.tolist()
            batches = batches_of_epoch(self.params, self.labels.tolist(), epoch, camids)
        first = first_step * accumulate
        batches = batches[first - epoch * len(batches) :]
        own = [batch[dist.share(len(batch))] for batch in batches]
        size = self.params.resize_to
        loaded = load_batches(
            self.store,
            self.labels,
            own,
            self.device,
            lambda position: self._draw(AUGMENTATION, first + position, len(own[position]), size),
        )
        step: list[TrainBatch] = []
        for number, (indices, batch) in enumerate(zip(batches, loaded, strict=True), start=first):
            assert batch.params is not None
            pixels = self._augmented(batch.images, batch.params, PIXELS, number)
            step.append(self._train_batch(epoch, pixels, batch, indices, number))
            if len(step) == accumulate:
                # For what the network draws itself, dropout above all; no two processes draw alike.
                default_generator(self.device).manual_seed(seed_for(MODEL, self.params.seed, number, dist.rank))
                yield step
                step = []

    def _train_batch(self, epoch: int, pixels: Tensor, batch: Batch, indices: Sequence[int], number: int) -> TrainBatch:
        own = list(indices[this_process().share(len(indices))])
        camids = None if self.camids is None else to_device(self.camids[own], self.device)
        # Before the network's forward pass: the memory that the teacher takes is free again by then.
        with self.precision.autocast(pixels.device):
            normalisation = self.params.data_augmentation.normalisation
            taught = None if self.teacher is None else self.teacher(pixels, normalisation, camids)
        extra = None
        if self.extra_images is not None:
            extra = self.extra_images.make(epoch, own, batch.labels, number)
        if extra is not None:
            # Augmented as if they had been read, or the lack of it would tell them apart.
            height, width = extra.images.shape[2:]
            draws = self._draw(GENERATED_AUGMENTATION, number, len(extra.images), (height, width))
            extra = extra._replace(images=self._augmented(extra.images, draws, GENERATED_PIXELS, number))
        return TrainBatch(pixels, batch.labels, taught, extra, batch.images, indices, number, camids)

    def _draw(self, purpose: int, number: int, num_images: int, size: tuple[int, int]) -> AugmentParams:
        """What is drawn for this process's images of a batch, of this height and width before they are cropped."""
        params, dist = self.params, this_process()
        all_images = num_images * dist.world_size
        generator = torch.Generator().manual_seed(seed_for(purpose, params.seed, number))
        draws = sample(params.data_augmentation, all_images, *size, params.img_h, params.img_w, generator)
        return draws.part(dist.share(all_images))

    def _augmented(self, images: Tensor, draws: AugmentParams, purpose: int, number: int) -> Tensor:
        """Images (B, 3, H, W) uint8 of this process as the network sees them."""
        params = self.params
        if params.data_augmentation.draws_pixels:
            self.pixel_generator.manual_seed(seed_for(purpose, params.seed, number, this_process().rank))
        size = params.img_h, params.img_w
        return augment(images, draws, params.data_augmentation, *size, self.pixel_generator, self.precision.dtype)


def num_processes(params: Params) -> int:
    """Processes that a run with these params has, or will have once it is started."""
    return max(this_process().world_size, len(params.parallels))


def batches_of_epoch(params: Params, labels: Sequence[int], epoch: int, camids: Sequence[int] = ()) -> list[list[int]]:
    """The batches of an epoch over all processes, as indices of training images; cameras for balanced ones only."""
    return epoch_batches(params, labels, params.seed, epoch, num_processes(params), params.accumulate_steps, camids)
