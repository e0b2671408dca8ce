"""How good a generator is while it learns: its pictures against the real ones, in the eyes of a network."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from config.params import Params
from data.cache import FileStore, ImageStore
from data.samples import DISTRACTOR_PID, JUNK_PID, Dataset, Sample
from evaluate.core.generation.feature_network import FeatureNetwork, features_of, load_feature_network
from evaluate.core.generation.neighbours import nearest_images
from evaluate.core.generation.quality import RealImages, measure
from gan.sampling import draw_inputs, generate
from gan.steps import GanStepper

logger = logging.getLogger(__name__)

AT_ONCE = 128
"""Images generated or looked at at once."""
MOST_HELD_OUT = 2000
"""Real images of other persons that tell a copy from a picture; more would not change the threshold."""


class Measured(NamedTuple):
    """What was found of a generator."""

    metrics: dict[str, float]
    """As `measure` names them."""
    beside_nearest: Tensor
    """(2 M, 3, H, W) uint8: generated pictures, each followed by the training image nearest to it."""


class Quality:
    """Measures a generator again and again, by pictures made from the same noise.

    Args:
        measurer: looks at the pictures.
        store: serves the training images in the size of the generated ones.
        real: what the measurer sees in them.
        noise: (M, input_dim) of the pictures.
        conditions: (M, D) embeddings they are made from, where the generator is conditioned.
    """

    def __init__(
        self, measurer: FeatureNetwork, store: ImageStore, real: RealImages, noise: Tensor, conditions: Tensor | None
    ) -> None:
        self.measurer = measurer
        self.store = store
        self.real = real
        self.noise = noise
        self.conditions = conditions

    def __call__(self, stepper: GanStepper, shown: int = 16) -> Measured:
        """Measure the averaged generator; `shown` of its pictures are set beside their nearest training images."""
        pictures = generate(stepper.average, self.noise, self.conditions)
        features = features_of(self.measurer, pictures, AT_ONCE)
        nearest = nearest_images(features[:shown], self.real.training)
        training = self.store.read(nearest.place.tolist()).cpu()
        pairs = torch.stack([pictures[:shown], training], dim=1).flatten(0, 1)
        return Measured(measure(self.real, features), pairs)


def build_quality(
    params: Params, dataset: Dataset, store: ImageStore, conditions: Tensor | None, device: torch.device
) -> Quality | None:
    """What `gan_params.measured_by` asks for; None for "none".

    Args:
        params: of the run.
        dataset: its training images are what a generator learns from; the others show other persons.
        store: serves the training images.
        conditions: (N, D) their embeddings, where the generator is conditioned.
        device: where the measuring network computes.

    Raises:
        DataError: there is no such network.
    """
    gan = params.gan_params
    if gan.measured_by == "none":
        return None
    measurer = load_feature_network(gan.measured_by, device)
    logger.info("looking at the %d real images with %s", len(dataset.train), measurer.name)
    training = features_of(measurer, _in_batches(store, len(dataset.train)), AT_ONCE)
    others = held_out(dataset)
    # Looked at in the size of the generated ones, so that a lack of detail counts for none of them.
    files = FileStore([sample.path for sample in others], gan.img_h, gan.img_h // 2)
    other_features = features_of(measurer, _in_batches(files, len(others)), AT_ONCE) if others else None
    noise, sources = draw_inputs(gan.num_measured, gan.input_dim, conditions, params.seed, device)
    return Quality(measurer, store, RealImages(training, other_features), noise, sources)


def held_out(dataset: Dataset) -> Sequence[Sample]:
    """Images of persons that nobody trains on, evenly from all there are; none where the test set has none."""
    known = {sample.pid for sample in dataset.train} | {JUNK_PID, DISTRACTOR_PID}
    persons = [sample for sample in (*dataset.query, *dataset.gallery) if sample.pid not in known]
    return persons[:: max(1, -(-len(persons) // MOST_HELD_OUT))]


def _in_batches(store: ImageStore, count: int) -> Iterator[Tensor]:
    """All images of a store (B, 3, H, W) uint8, a batch at a time."""
    for start in range(0, count, AT_ONCE):
        yield store.read(np.arange(start, min(start + AT_ONCE, count)).tolist())
