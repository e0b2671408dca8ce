"""A generator's images against the real ones it learnt from, as a few numbers."""

import numpy as np

from evaluate.core.generation.distances import diversity, frechet_distance, kernel_distance, kernel_mean, statistics_of
from evaluate.core.generation.neighbours import copy_threshold, neighbour_radii, precision_recall, share_of_copies

NEIGHBOURS = 5
"""k of precision and recall."""
MOST_PAIRED = 10_000
"""Largest number of real images for KID, precision and recall, which compare all pairs; more are subsampled evenly."""


class RealImages:
    """What is known of the real images before a generator is measured; computed once, for any number of measurements.

    Args:
        training: (N, D) features of the images the generator learns from, more than 5.
        held_out: (H, D) features of real images of other persons; None where there are none.

    Raises:
        ValueError: shapes do not fit, too few, not finite, or all training images have the same features.
    """

    def __init__(self, training: np.ndarray, held_out: np.ndarray | None = None) -> None:
        self.training = as_features(training, "training", NEIGHBOURS + 1)
        self.statistics = statistics_of(self.training)
        self.paired = self.training[:: -(-len(self.training) // MOST_PAIRED)]
        self.kernel_mean = kernel_mean(self.paired)
        self.radii = neighbour_radii(self.paired, NEIGHBOURS)
        self.diversity = diversity(self.training)
        self.copy_threshold = None
        if held_out is not None:
            held_out = as_features(held_out, "held_out", 1, self.training.shape[1])
            self.copy_threshold = copy_threshold(self.training, held_out)
        if self.diversity == 0.0:
            raise ValueError(f"training: the features of all {len(self.training)} images have the same direction")


def measure(real: RealImages, generated: np.ndarray) -> dict[str, float]:
    """How good generated images are.

    Args:
        real: what they are measured against, with features of the same network.
        generated: (M, D) features, more than 5; M should be the same in all measurements that are compared.

    Returns:
        "fid" and "kid": distances to the distribution of the training images, lower is better;
        "precision" and "recall": shares of generated images that look real, and of real ones that can be generated;
        "diversity": that of the generated images, divided by that of the real ones;
        "copies": share of images as near to a training image as hardly a new real one; only with held-out images.

    Raises:
        ValueError: shapes do not fit, too few, or not finite.
    """
    generated = as_features(generated, "generated", NEIGHBOURS + 1, real.training.shape[1])
    precision, recall = precision_recall(real.paired, real.radii, generated, NEIGHBOURS)
    measures = {
        "fid": frechet_distance(real.statistics, statistics_of(generated)),
        "kid": kernel_distance(real.paired, real.kernel_mean, generated),
        "precision": precision,
        "recall": recall,
        "diversity": diversity(generated) / real.diversity,
    }
    if real.copy_threshold is not None:
        measures["copies"] = share_of_copies(generated, real.training, real.copy_threshold)
    return measures


def as_features(features: np.ndarray, name: str, least: int, dim: int | None = None) -> np.ndarray:
    """Features (N, D) as float64.

    Raises:
        ValueError: of another shape or size than `dim`, fewer than `least`, or not finite.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or not features.shape[1] or dim not in (None, features.shape[1]):
        raise ValueError(f"{name}: features of shape (N, {dim or 'D'}) expected, got {features.shape}")
    if len(features) < least:
        raise ValueError(f"{name}: {len(features)} images are too few; at least {least} are needed")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(f"{name}: {len(bad)} of {len(features)} rows hold NaN or infinity, the first: {bad[0]}")
    return features
