"""What each step of an epoch sees: images from the store, augmented, their labels, and what a teacher makes of them."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from data.augmentation.apply import augment
from data.augmentation.draws import draw
from data.loader import Batch, load_batches
from engine.step import TrainBatch
from engine.training import Training
from utils.distributed import this_process
from utils.randomness import AUGMENTATION, MODEL, PIXELS, seed_for


def train_batches(training: Training, batches: Iterable[Sequence[int]]) -> Iterator[list[TrainBatch]]:
    """The batches of each coming step, as many as gradients are averaged over.

    Everything random is seeded anew for each batch, and for each step what the network draws.

    Args:
        training: where it stands says what is drawn.
        batches: this process's, as indices of training images; `training.batches()` are those of an epoch.
    """
    accumulate = training.params.accumulate_steps
    augmenter = Augmenter(training)
    loaded = load_batches(training.store, training.labels, batches, training.device)
    first = training.step * accumulate
    step: list[TrainBatch] = []
    for number, batch in enumerate(loaded, start=first):
        step.append(augmenter(batch, number))
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
        self.precision = training.stepper.precision
        self.generator = torch.Generator(training.device)
        self.pixel_generator = torch.Generator(training.device)

    def __call__(self, batch: Batch, number: int) -> TrainBatch:
        """The batch `number` of the run, counted over all epochs."""
        params, dist = self.params, this_process()
        seed, options = params.seed, params.data_augmentation
        self.generator.manual_seed(seed_for(AUGMENTATION, seed, number))
        self.pixel_generator.manual_seed(seed_for(PIXELS, seed, number, dist.rank))
        all_images = len(batch.images) * dist.world_size
        full_height, full_width = batch.images.shape[2:]
        draws = draw(options, all_images, full_height, full_width, params.img_h, params.img_w, self.generator)
        draws = draws.part(dist.share(all_images))
        size = params.img_h, params.img_w
        pixels = augment(batch.images, draws, options, *size, self.pixel_generator, self.precision.dtype)
        # Before the network: what a teacher holds in memory while it computes is free again by then.
        with self.precision.autocast(pixels.device):
            taught = None if self.teacher is None else self.teacher(pixels, options.normalisation)
        return TrainBatch(pixels, batch.labels, taught)
