"""Images that are copies of each other: the same pixels, or nearly so, as after another compression or size."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from audit.labels import Near
from audit.pixels import Pixels

CANDIDATES = 5
"""Neighbours whose pixels are compared."""
LEAST_DIFFERENCE = 0.1
"""Of images with other pixels, whose thumbnails may be equal."""
ROWS = 4096


class Copies(NamedTuple):
    """Images that are copies of each other."""

    rows: list[int]
    difference: float
    """Largest mean absolute difference of pixels between copies that were compared, 0..255; 0 = the same pixels."""


def find_copies(pixels: Pixels, near: Near, most: float) -> list[Copies]:
    """Find groups of copies, the largest first.

    Args:
        pixels: of N images.
        near: the nearest images of each, among which copies with other pixels are.
        most: mean absolute difference of the pixels of two thumbnails, 0..255, up to which they are copies.
    """
    first_of: dict[bytes, int] = {}
    same = [(first_of.setdefault(digest.tobytes(), row), row) for row, digest in enumerate(pixels.digests)]
    pairs = [np.array([(a, b) for a, b in same if a != b], np.int64).reshape(-1, 2)]
    differences = [np.zeros(len(pairs[0]), np.float32)]
    if most > 0:
        for part in torch.arange(len(pixels.digests)).split(ROWS):
            found, difference = _near_copies(pixels, near, part, most)
            pairs.append(found)
            differences.append(difference)
    ends, difference = np.concatenate(pairs), np.concatenate(differences)
    number = len(pixels.digests)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(number, number))
    component = connected_components(graph, directed=False)[1]
    largest: dict[int, float] = {}
    for place, value in zip(component[ends[:, 0]].tolist(), difference.tolist(), strict=True):
        largest[place] = max(value, largest.get(place, 0.0))
    rows_of: dict[int, list[int]] = {place: [] for place in largest}
    for row, place in enumerate(component.tolist()):
        if place in rows_of:
            rows_of[place].append(row)
    return sorted((Copies(rows, largest[place]) for place, rows in rows_of.items()), key=lambda each: -len(each.rows))


def _near_copies(pixels: Pixels, near: Near, part: torch.Tensor, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (P, 2) of some images and their copies, and the differences (P,)."""
    candidates = near.rows[part, :CANDIDATES]
    ends = np.stack([part.numpy().repeat(candidates.shape[1]), candidates.flatten().numpy()], axis=1)
    first, second = (pixels.thumbnails[ends[:, side]].astype(np.int16) for side in (0, 1))
    difference = np.abs(first - second).mean(axis=(1, 2, 3), dtype=np.float32)
    is_same = (pixels.digests[ends[:, 0]] == pixels.digests[ends[:, 1]]).all(axis=1)
    difference = np.where(is_same, 0, difference.clip(min(LEAST_DIFFERENCE, most)))
    return ends[difference <= most], difference[difference <= most]
