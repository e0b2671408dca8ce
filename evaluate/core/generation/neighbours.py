"""What the neighbours of images tell of a generator: how many are like real ones, how many real ones it can make, and
how many it only remembers.

Images are given as features (N, D); distances are Euclidean, computed in float64, a block of rows at a time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from evaluate.core.generation.distances import ROWS, as_features, as_pair, block_starts

COPY_QUANTILE = 0.01
"""The share of new real images that are so near to a training image that they count as copies."""


class Nearest(NamedTuple):
    """The training image nearest to each of M images."""

    place: np.ndarray
    """(M,) int64; of several at the same distance the first."""
    distance: np.ndarray
    """(M,) float64."""


def precision_recall(
    real: np.ndarray, generated: np.ndarray, k: int = 5, rows: int = ROWS, real_radii: np.ndarray | None = None
) -> tuple[float, float]:
    """Two shares in 0..1: of the generated images that are like real ones, and of the real ones it can make.

    Around every image of a set lies a ball that reaches to its k-th nearest neighbour in the set. A generated image is
    like real ones if it lies in the ball of any of them (precision); a real one can be made if it lies in that of any
    generated image (recall). The borders belong to the balls.

    Args:
        real, generated: (N, D) and (M, D), more than k each.
        k: the more, the larger the balls.
        rows: how many rows of the matrix of all pairs are in hand at once.
        real_radii: `neighbour_radii(real, k)`, if they are known.

    Raises:
        ValueError: shapes do not fit, too few, not finite, or k is not positive.

    Source: Kynkäänniemi et al. 2019, arXiv 1904.06991, equations 1 and 2.
    """
    real, generated = as_pair(real, generated, ("real", "generated"), least=k + 1)
    radii = neighbour_radii(real, k, rows) if real_radii is None else real_radii
    if radii.shape != (len(real),):
        raise ValueError(f"real_radii: {len(real)} expected, got {radii.shape}")
    generated_radii = neighbour_radii(generated, k, rows)
    alike, made = 0, np.zeros(len(real), dtype=bool)
    for start, distances in _distance_blocks(generated, real, rows):
        alike += int((distances <= radii).any(axis=1).sum())
        made |= (distances <= generated_radii[start : start + len(distances), None]).any(axis=0)
    return alike / len(generated), float(made.mean())


def neighbour_radii(features: np.ndarray, k: int = 5, rows: int = ROWS) -> np.ndarray:
    """The distance of each image (N, D) to the k-th nearest of the others: (N,) float64.

    Raises:
        ValueError: of another shape, not more than k, not finite, or k is not positive.
    """
    if k < 1:
        raise ValueError(f"k: expected to be positive, got {k}")
    features = as_features(features, "features", least=k + 1)
    radii = np.empty(len(features))
    for start, distances in _distance_blocks(features, features, rows):
        own = np.arange(len(distances))
        distances[own, start + own] = np.inf
        radii[start : start + len(distances)] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return radii


def nearest_images(generated: np.ndarray, training: np.ndarray, rows: int = ROWS) -> Nearest:
    """For each generated image (M, D) the training image (N, D) that is nearest to it.

    Raises:
        ValueError: shapes do not fit, none, or not finite.
    """
    generated, training = as_pair(generated, training, ("generated", "training"), least=1)
    place, distance = np.empty(len(generated), dtype=np.int64), np.empty(len(generated))
    for start, distances in _distance_blocks(generated, training, rows):
        stop = start + len(distances)
        place[start:stop] = distances.argmin(axis=1)
        distance[start:stop] = distances.min(axis=1)
    return Nearest(place, distance)


def copy_threshold(training: np.ndarray, held_out: np.ndarray, rows: int = ROWS) -> float:
    """The distance below which an image counts as a copy of a training image.

    Of real images of persons who were not trained on, one in a hundred is as near to one: the 1 % quantile of their
    distances to the nearest training image, between two of them interpolated.

    Args:
        training, held_out: (N, D) and (H, D) of real images; with fewer than a hundred of the latter it is a guess.

    Raises:
        ValueError: shapes do not fit, none, or not finite.
    """
    training, held_out = as_pair(training, held_out, ("training", "held_out"), least=1)
    return float(np.quantile(nearest_images(held_out, training, rows).distance, COPY_QUANTILE))


def share_of_copies(generated: np.ndarray, training: np.ndarray, held_out: np.ndarray, rows: int = ROWS) -> float:
    """The share of the generated images (M, D) that are nearer to a training image than `copy_threshold`.

    About 0.01 where they are as far from the training images as new real images are, 1.0 where they repeat them. Where
    the held-out images themselves repeat training images the threshold is 0, and so is the share.

    Raises:
        ValueError: shapes do not fit, none, or not finite.
    """
    return share_nearer(generated, training, copy_threshold(training, held_out, rows), rows)


def share_nearer(generated: np.ndarray, training: np.ndarray, threshold: float, rows: int = ROWS) -> float:
    """`share_of_copies` with a threshold that is known."""
    return float((nearest_images(generated, training, rows).distance < threshold).mean())


def _distance_blocks(left: np.ndarray, right: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Distances of (M, D) to (N, D): where a block begins, and its rows (R, N), the caller's to write into."""
    right_squares = np.square(right).sum(axis=1)
    for start in block_starts(len(left), rows):
        block = left[start : start + rows]
        scale = np.square(block).sum(axis=1)[:, None] + right_squares
        squares = block @ right.T
        squares *= -2.0
        squares += scale
        # What rounding can leave of a distance of nothing is nothing: an image lies on its copy, in blocks of any size.
        scale *= left.shape[1] * np.finfo(np.float64).eps
        squares[squares <= scale] = 0.0
        yield start, np.sqrt(squares, out=squares)
