"""What nearest neighbours tell of a generator: how many images are realistic, how many real ones it covers, and how
many it copies.

Images are given as finite features (N, D); `quality.as_features` checks them. Distances are Euclidean, in float64.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

ROWS = 512
"""Rows of the matrix of all distances in memory at once."""
COPY_QUANTILE = 0.01
"""The share of new real images that are so near to a training image that they count as copies."""


class Nearest(NamedTuple):
    """The training image nearest to each of M images."""

    place: np.ndarray
    """(M,) int64; of several at the same distance the first."""
    distance: np.ndarray
    """(M,) float64."""


def precision_recall(
    real: np.ndarray, real_radii: np.ndarray, generated: np.ndarray, k: int = 5
) -> tuple[float, float]:
    """The share of generated images that look real (precision), and of real ones that can be generated (recall).

    Around every image of a set lies a ball that reaches to its k-th nearest neighbour in the set. A generated image
    looks real if it lies in the ball of any real one; a real one can be generated if it lies in that of any generated
    image. The borders belong to the balls.

    Args:
        real, generated: (N, D) and (M, D), more than k each.
        real_radii: `neighbour_radii(real, k)`.
        k: the larger, the larger the balls.

    Source: Kynkäänniemi et al. 2019, arXiv 1904.06991, equations 1 and 2.
    """
    generated_radii = neighbour_radii(generated, k)
    realistic, covered = 0, np.zeros(len(real), dtype=bool)
    for start, distances in _distance_blocks(generated, real):
        realistic += int((distances <= real_radii).any(axis=1).sum())
        covered |= (distances <= generated_radii[start : start + len(distances), None]).any(axis=0)
    return realistic / len(generated), float(covered.mean())


def neighbour_radii(features: np.ndarray, k: int = 5) -> np.ndarray:
    """The distance of each image (N, D), N > k, to the k-th nearest of the others: (N,) float64."""
    radii = np.empty(len(features))
    for start, distances in _distance_blocks(features, features):
        own = np.arange(len(distances))
        distances[own, start + own] = np.inf
        radii[start : start + len(distances)] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return radii


def nearest_images(generated: np.ndarray, training: np.ndarray) -> Nearest:
    """For each generated image (M, D) the training image (N, D) that is nearest to it."""
    place, distance = np.empty(len(generated), dtype=np.int64), np.empty(len(generated))
    for start, distances in _distance_blocks(generated, training):
        stop = start + len(distances)
        place[start:stop] = distances.argmin(axis=1)
        distance[start:stop] = distances.min(axis=1)
    return Nearest(place, distance)


def copy_threshold(training: np.ndarray, held_out: np.ndarray) -> float:
    """The distance below which an image counts as a copy of a training image.

    The 1 % quantile, interpolated, of the distances of held-out real images (H, D), of persons not trained on, to the
    nearest training image (N, D). With fewer than a hundred held-out images it is a guess.
    """
    return float(np.quantile(nearest_images(held_out, training).distance, COPY_QUANTILE))


def share_of_copies(generated: np.ndarray, training: np.ndarray, threshold: float) -> float:
    """The share of the generated images (M, D) that are nearer to a training image (N, D) than `copy_threshold`.

    About 0.01 where they are as far from the training images as new real images are, 1.0 where they repeat them. Where
    the held-out images themselves repeat training images the threshold is 0, and so is the share.
    """
    return float((nearest_images(generated, training).distance < threshold).mean())


def _distance_blocks(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Distances of (M, D) to (N, D): where a block begins, and its rows (R, N), the caller's to write into."""
    left, right = left.astype(np.float64, copy=False), right.astype(np.float64, copy=False)
    right_squares = np.square(right).sum(axis=1)
    for start in range(0, len(left), ROWS):
        block = left[start : start + ROWS]
        scale = np.square(block).sum(axis=1)[:, None] + right_squares
        squares = block @ right.T
        squares *= -2.0
        squares += scale
        # What rounding leaves of a distance of zero is set to zero: a copy has distance 0 in blocks of any size.
        scale *= left.shape[1] * np.finfo(np.float64).eps
        squares[squares <= scale] = 0.0
        yield start, np.sqrt(squares, out=squares)
