"""What each step of an epoch sees: images from the store, augmented, their labels, and what a teacher makes of them."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from data.augmentation.apply import augment
from data.augmentation.params import sample
from data.loader import Batch, load_batches
from engine.gan.mixing import Mixing
from engine.train_batch import GeneratedImages, TrainBatch
from engine.training import Training
from utils.distributed import this_process
from utils.randomness import AUGMENTATION, GENERATED_AUGMENTATION, GENERATED_PIXELS, MODEL, PIXELS, seed_for


def train_batches(training: Training, batches: Iterable[Sequence[int]]) -> Iterator[list[TrainBatch]]:
    """The batches of each coming step, as many as gradients are averaged over.

    Everything random is seeded anew for each batch, and for each step what the network draws.

    Args:
        training: where it stands says what is drawn.
        batches: this process's, as indices of training images; `training.batches()` are those of an epoch.
    """
    accumulate = training.params.accumulate_steps
    augmenter = Augmenter(training)
    batches = list(batches)
    loaded = load_batches(training.store, training.labels, batches, training.device)
    first = training.step * accumulate
    step: list[TrainBatch] = []
    for number, (indices, batch) in enumerate(zip(batches, loaded, strict=True), start=first):
        step.append(augmenter(batch, indices, number))
        if len(step) == accumulate:
            # What the network draws for itself, dropout above all; no two processes draw alike.
            torch.manual_seed(seed_for(MODEL, training.params.seed, number, this_process().rank))
            yield step
            step = []


class Augmenter:
    """Turns loaded images into what the network sees.

    The numbers of a batch's images are drawn for those of all processes, from one seed, and each process takes its
    part: what an image becomes does not depend on how many processes share the work. Noise and random pixels alone,
    which are many numbers, each process draws for its own images.
    """

    def __init__(self, training: Training) -> None:
        self.params = training.params
        self.teacher = training.teacher
        self.mixing = training.mixing
        self.mixes = training.mixing is not None and training.mixing.acts(training.epoch)
        self.precision = training.stepper.precision
        self.generator = torch.Generator(training.device)
        self.pixel_generator = torch.Generator(training.device)

    def __call__(self, batch: Batch, indices: Sequence[int], number: int) -> TrainBatch:
        """The batch `number` of the run, counted over all epochs, which has the training images `indices`."""
        pixels = self._augmented(batch.images, number, AUGMENTATION, PIXELS)
        # Before the network: what a teacher holds in memory while it computes is free again by then.
        with self.precision.autocast(pixels.device):
            taught = None if self.teacher is None else self.teacher(pixels, self.params.data_augmentation.normalisation)
        if self.mixing is None:
            return TrainBatch(pixels, batch.labels, taught)
        generated = self._generated(self.mixing, indices, batch.labels, number) if self.mixes else None
        return TrainBatch(pixels, batch.labels, taught, generated, self.mixing.real(batch.images, indices, number))

    def _generated(self, mixing: Mixing, indices: Sequence[int], labels: Tensor, number: int) -> GeneratedImages:
        """Images that a generator made, augmented as if they had been read, lest they are known by the lack of it."""
        made = mixing.make(indices, labels, number)
        pixels = self._augmented(made.images, number, GENERATED_AUGMENTATION, GENERATED_PIXELS)
        return GeneratedImages(pixels, made.labels, made.sources)

    def _augmented(self, images: Tensor, number: int, draws_for: int, pixels_for: int) -> Tensor:
        """Images (B, 3, H, W) uint8 of this process as the network sees them; what is drawn is drawn for a purpose."""
        params, dist = self.params, this_process()
        seed, options = params.seed, params.data_augmentation
        self.generator.manual_seed(seed_for(draws_for, seed, number))
        self.pixel_generator.manual_seed(seed_for(pixels_for, seed, number, dist.rank))
        all_images = len(images) * dist.world_size
        full_height, full_width = images.shape[2:]
        draws = sample(options, all_images, full_height, full_width, params.img_h, params.img_w, self.generator)
        draws = draws.part(dist.share(all_images))
        size = params.img_h, params.img_w
        return augment(images, draws, options, *size, self.pixel_generator, self.precision.dtype)
