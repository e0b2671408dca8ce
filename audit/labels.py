"""Images that look like another identity than the one they are labelled with."""

from typing import NamedTuple

import torch
from torch import Tensor

from audit.score import learned_shift, probability_of_mistake
from evaluate.core.retrieval.approximate import find_neighbours
from evaluate.core.retrieval.encodings import pair_distances

NUM_NEIGHBOURS = 30
VOTES = 3
"""Nearest images of an identity that count: one would follow a single wrong label, all would ask for one pose."""
MAX_PLANTED = 4000
ROWS = 4096
"""Images compared at once."""


class Near(NamedTuple):
    """The nearest other images of N, nearest first; both (N, K) and on the CPU."""

    rows: Tensor
    """int64."""
    similarities: Tensor
    """float32, cosines."""


class Swaps(NamedTuple):
    """For each of N images."""

    probabilities: Tensor
    """(N,) float32, that the label is wrong; 0 for images that are not judged, or alone in their identity."""
    nearest: Tensor
    """(N,) int64, the most similar other identity; -1 where none is near."""


def nearest_images(features: Tensor, probes: int = 0) -> Near:
    """The nearest other images of every image; the processes of a run share the search, and all must call this.

    Args:
        features: (N, D) float32 of unit length, on the device that is to compare them.
        probes: as for `find_neighbours`.

    Raises:
        DataError: an embedding of length zero.
    """
    order = find_neighbours(features, NUM_NEIGHBOURS + 1, probes, is_shared=True)
    # Of more equal images than neighbours an image is not among its own: then the last one is left out.
    is_own = order == torch.arange(len(order))[:, None]
    is_own[:, -1] |= ~is_own.any(dim=1)
    rows = order[~is_own].view(len(order), -1)
    images = torch.arange(len(order)).repeat_interleave(rows.shape[1])
    return Near(rows, 1 - pair_distances(features, images, rows.flatten(), "cosine").cpu().view_as(rows))


def rows_of_labels(labels: Tensor) -> list[Tensor]:
    """The rows of each label 0..C-1 of (N,) int64; -1 = none."""
    counts = torch.bincount(labels + 1).tolist()
    return list(labels.argsort(stable=True).split(counts)[1:])


def find_swaps(features: Tensor, labels: Tensor, near: Near, is_judged: Tensor, generator: torch.Generator) -> Swaps:
    """Compare the similarity of each image to its own identity with that to the nearest other one.

    Args:
        features: (N, D) float32 of unit length, on the CPU.
        labels: (N,) int64, 0..C-1; -1 for images that belong to no identity of the training set.
        near: of the same images.
        is_judged: (N,) bool, which images to judge; they have labels.
        generator: of the planted mistakes.
    """
    groups = rows_of_labels(labels)
    own = own_similarities(features, groups)
    other, nearest = other_similarities(labels, near)
    is_judged = is_judged & (own > -1)
    # -1, not negative infinity: without any neighbour of another identity nothing speaks against the label.
    margins = torch.where(is_judged, other - own, -1.0)
    planted = _planted_margins(features, labels, groups, own, is_judged & (margins < 0), generator)
    probabilities = torch.zeros(len(labels))
    observed = margins[is_judged]
    probabilities[is_judged] = probability_of_mistake(observed, planted - learned_shift(observed, planted))
    return Swaps(probabilities, nearest)


def own_similarities(features: Tensor, groups: list[Tensor]) -> Tensor:
    """(N,) mean cosine of each image to the nearest others of its identity; -1 where there are none."""
    own = torch.full((len(features),), -1.0)
    for rows in groups:
        if len(rows) < 2:
            continue
        for part in rows.split(ROWS):
            similarity = features[part] @ features[rows].T
            similarity.masked_fill_(part[:, None] == rows, -1.0)
            own[part] = similarity.topk(min(VOTES, len(rows) - 1)).values.mean(dim=1)
    return own


def other_similarities(labels: Tensor, near: Near) -> tuple[Tensor, Tensor]:
    """(N,) mean cosine of each image to the nearest ones of the most similar other identity, and that identity.

    Where fewer than `VOTES` images of it are among the neighbours, the others are taken to be as near as the last.
    """
    best, nearest = torch.full((len(labels),), -1.0), torch.full((len(labels),), -1)
    for part in torch.arange(len(labels)).split(ROWS):
        theirs, similarity = labels[near.rows[part]], near.similarities[part]
        # [b, j, k]: neighbour k is one of the nearest with the label of neighbour j.
        same = theirs[:, :, None] == theirs[:, None, :]
        same &= (same.tril().sum(dim=2) <= VOTES)[:, None, :]
        missing = (VOTES - same.sum(dim=2)).clamp(min=0)
        mean = (same.float() @ similarity[:, :, None])[:, :, 0].add_(missing * similarity[:, -1:]).div_(VOTES)
        mean.masked_fill_((theirs == labels[part][:, None]) | (theirs < 0), -1.0)
        best[part], place = mean.max(dim=1)
        nearest[part] = theirs.gather(1, place[:, None])[:, 0]
    return best, nearest.masked_fill(best == -1, -1)


def _planted_margins(
    features: Tensor, labels: Tensor, groups: list[Tensor], own: Tensor, is_right: Tensor, generator: torch.Generator
) -> Tensor:
    """(M,) the margins that images with a right label would have, were it that of another identity."""
    rows = is_right.nonzero().flatten()
    rows = rows[torch.randperm(len(rows), generator=generator)[:MAX_PLANTED]]
    if len(groups) < 2:
        return torch.empty(0)
    others = (labels[rows] + torch.randint(1, len(groups), (len(rows),), generator=generator)) % len(groups)
    similarities = [
        (features[groups[other]] @ features[row]).topk(min(VOTES, len(groups[other]))).values.mean()
        for row, other in zip(rows.tolist(), others.tolist(), strict=True)
    ]
    return own[rows] - torch.stack(similarities) if similarities else torch.empty(0)
