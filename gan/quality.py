"""How good a generator is: its pictures compared with real images, by the features of a network."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from config.params import Params
from data.cache import FileStore, ImageStore
from data.samples import DISTRACTOR_PID, JUNK_PID, Dataset, Sample
from engine.recorder import grid
from evaluate.core.generation.feature_network import FeatureNetwork, features_of, load_feature_network
from evaluate.core.generation.neighbours import nearest_images
from evaluate.core.generation.quality import RealImages, measure
from evaluate.core.plugins import Evaluation
from gan.sampling import draw_inputs, generate
from models.generator import Generator

logger = logging.getLogger(__name__)

BATCH_SIZE = 128
NUM_SHOWN = 16
"""Pictures shown beside their nearest training images."""
MAX_HELD_OUT = 2000
"""Real images of other persons that tell a copy from a picture; more would not change the threshold."""


class Quality(NamedTuple):
    """Measures a generator again and again, always from the same noise."""

    network: FeatureNetwork
    store: ImageStore
    """Serves the training images in the size of the generated ones."""
    real: RealImages
    """Their features."""
    noise: Tensor
    """(M, input_dim)."""
    conditions: Tensor | None
    """(M, D) embeddings; None for an unconditional generator."""

    def evaluate(self, generator: Generator) -> Evaluation:
        """FID and the other metrics of a generator in evaluation mode; the score is -FID.

        Its image shows generated pictures, each followed by the training image nearest to it.
        """
        pictures = generate(generator, self.noise, self.conditions)
        features = features_of(self.network, pictures, BATCH_SIZE)
        nearest = nearest_images(features[:NUM_SHOWN], self.real.training)
        training = self.store.read(nearest.place.tolist()).cpu()
        pairs = torch.stack([pictures[:NUM_SHOWN], training], dim=1).flatten(0, 1)
        metrics = measure(self.real, features)
        return Evaluation(-metrics["fid"], "fid", metrics, {}, {"beside_nearest": grid(pairs.numpy())})


def build_quality(
    params: Params, dataset: Dataset, store: ImageStore, conditions: Tensor | None, device: torch.device
) -> Quality | None:
    """The measurement that `gan_params.measured_by` asks for; None for "none".

    Args:
        params: of the run.
        dataset: the generator learns from its training images; query and gallery show other persons.
        store: serves the training images.
        conditions: (N, D) their embeddings; None for an unconditional generator.
        device: where the feature network computes.

    Raises:
        DataError: there is no such network.
    """
    gan = params.gan_params
    if gan.measured_by == "none":
        return None
    network = load_feature_network(gan.measured_by, device)
    logger.info("computing features of the %d real images with %s", len(dataset.train), network.name)
    training = features_of(network, _batches(store, len(dataset.train)), BATCH_SIZE)
    others = held_out(dataset)
    # In the size of the generated pictures, so that their lack of detail does not count.
    files = FileStore([sample.path for sample in others], params.generator_resize)
    other_features = features_of(network, _batches(files, len(others)), BATCH_SIZE) if others else None
    noise, sources = draw_inputs(gan.num_measured, gan.input_dim, conditions, params.seed, device)
    return Quality(network, store, RealImages(training, other_features), noise, sources)


def held_out(dataset: Dataset) -> Sequence[Sample]:
    """Evenly chosen query and gallery images of persons without training images; there may be none."""
    trained = {sample.pid for sample in dataset.train} | {JUNK_PID, DISTRACTOR_PID}
    others = [sample for sample in (*dataset.query, *dataset.gallery) if sample.pid not in trained]
    return others[:: max(1, -(-len(others) // MAX_HELD_OUT))]


def _batches(store: ImageStore, count: int) -> Iterator[Tensor]:
    """All images of a store, (B, 3, H, W) uint8."""
    for start in range(0, count, BATCH_SIZE):
        yield store.read(np.arange(start, min(start + BATCH_SIZE, count)).tolist())
