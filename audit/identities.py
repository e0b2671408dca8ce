"""Identities that look like two persons, and two identities that look like one."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from audit.score import probability_of_mistake

MAX_CLUSTERED = 1000
"""Images of an identity that are clustered; the others join the nearest part."""
MOST_PARTS = 5
NUM_PLANTED = 500
LEAST_IMAGES = 4
"""Of an identity that may be two: two of each."""
ROWS = 1024


class Parts(NamedTuple):
    """An identity in two parts, the larger one first: rows of images, and the mean cosine between the parts."""

    larger: Tensor
    smaller: Tensor
    similarity: float


class Split(NamedTuple):
    """An identity that looks like two persons."""

    label: int
    parts: Parts
    probability: float
    other: int | None = None
    """Another identity that the smaller part looks like."""


class Merge(NamedTuple):
    """Two identities that look like one."""

    first: int
    second: int
    probability: float


def find_splits(features: Tensor, groups: dict[int, Tensor], generator: torch.Generator) -> list[Split]:
    """Cluster the images of each identity, and compare how similar the clusters are with those of two persons.

    Args:
        features: (N, D) float32 of unit length.
        groups: label -> rows of the images of an identity to judge, without those that look like another one.
        generator: of the planted mistakes.

    Returns:
        Those that may be two, the surest first.
    """
    parted = {label: parts for label, rows in groups.items() if (parts := in_two(features, rows))}
    large = [rows for rows in groups.values() if len(rows) >= 2]
    planted = [in_two(features, torch.cat([large[a], large[b]])) for a, b in _random_pairs(len(large), generator)]
    probabilities = probability_of_mistake(
        torch.tensor([1 - parts.similarity for parts in parted.values()]),
        torch.tensor([1 - parts.similarity for parts in planted if parts]),
    )
    splits = [
        Split(label, parts, probability)
        for (label, parts), probability in zip(parted.items(), probabilities.tolist(), strict=True)
    ]
    return sorted((split for split in splits if split.probability > 0), key=lambda split: -split.probability)


def in_two(features: Tensor, rows: Tensor) -> Parts | None:
    """The two main clusters of some images, by average linkage of cosines; None where there are not two of two images.

    Single images that are like no other are no clusters; they join the nearer part.
    """
    if len(rows) < LEAST_IMAGES:
        return None
    chosen = rows[torch.linspace(0, len(rows) - 1, min(len(rows), MAX_CLUSTERED)).round().long()]
    distance = (1 - features[chosen] @ features[chosen].T).clamp_(min=0).double().numpy()
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average")
    for number in range(2, MOST_PARTS + 1):
        clusters = torch.from_numpy(fcluster(tree, number, "maxclust"))
        sizes = clusters.bincount()
        if (sizes >= 2).sum() >= 2:
            break
    else:
        return None
    means = [features[chosen[clusters == cluster]].mean(dim=0) for cluster in sizes.topk(2).indices]
    is_second = features[rows] @ (means[1] - means[0]) > 0
    first, second = rows[~is_second], rows[is_second]
    if min(len(first), len(second)) < 2:
        return None
    if len(second) > len(first):
        first, second = second, first
    return Parts(first, second, float(features[first].mean(dim=0) @ features[second].mean(dim=0)))


def find_merges(
    features: Tensor,
    groups: dict[int, Tensor],
    camids: Tensor,
    judged: set[int],
    apart: Sequence[tuple[int, int]],
    generator: torch.Generator,
) -> list[Merge]:
    """Compare how similar two identities are that are nearest to each other with how similar parts of one person are.

    Args:
        features: (N, D) float32 of unit length.
        groups: label -> rows of the images of each identity.
        camids: (N,) int64; the planted parts of an identity are from different cameras, if it has several.
        judged: labels of which at least one is in every pair.
        apart: pairs of labels that are known to be different.
        generator: of the planted mistakes.

    Returns:
        Those that may be one, the surest first.
    """
    labels = list(groups)
    place_of = {label: place for place, label in enumerate(labels)}
    means = torch.stack([features[rows].mean(dim=0) for rows in groups.values()])
    nearest, similarity = _nearest_others(
        means, {place_of[a]: place_of[b] for pair in apart for a, b in (pair, pair[::-1])}
    )
    pairs = [
        place
        for place, other in enumerate(nearest.tolist())
        if place < other and int(nearest[other]) == place and not judged.isdisjoint({labels[place], labels[other]})
    ]
    halves = [_halves(groups[label], camids, generator) for label in labels if label in judged]
    planted = [float(features[a].mean(dim=0) @ features[b].mean(dim=0)) for a, b in halves if len(a) and len(b)]
    # Identities without such a partner count as observations that are no mistakes.
    observed = torch.full((max(len(judged), len(pairs)),), -1.0)
    observed[: len(pairs)] = similarity[pairs]
    probabilities = probability_of_mistake(observed, torch.tensor(planted)).tolist()
    merges = [
        Merge(labels[place], labels[int(nearest[place])], probability)
        for place, probability in zip(pairs, probabilities, strict=False)
    ]
    return sorted((merge for merge in merges if merge.probability > 0), key=lambda merge: -merge.probability)


def _nearest_others(means: Tensor, apart: Mapping[int, int]) -> tuple[Tensor, Tensor]:
    """(C,) the most similar other of each identity but the one in `apart`, and the mean cosine of their images."""
    nearest, similarities = [], []
    for rows in torch.arange(len(means)).split(ROWS):
        similarity = means[rows] @ means.T
        similarity[torch.arange(len(rows)), rows] = -1.0
        for row in rows.tolist():
            if row in apart:
                similarity[row - rows[0], apart[row]] = -1.0
        value, other = similarity.max(dim=1)
        nearest.append(other)
        similarities.append(value)
    return torch.cat(nearest), torch.cat(similarities)


def _halves(rows: Tensor, camids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The images of an identity in two parts: by camera, or at random where all are of one."""
    cameras = camids[rows].unique()
    if len(cameras) < 2:
        rows = rows[torch.randperm(len(rows), generator=generator)]
        return rows[: len(rows) // 2], rows[len(rows) // 2 :]
    chosen = cameras[torch.randperm(len(cameras), generator=generator)[: len(cameras) // 2]]
    is_first = torch.isin(camids[rows], chosen)
    return rows[is_first], rows[~is_first]


def _random_pairs(number: int, generator: torch.Generator) -> list[tuple[int, int]]:
    if number < 2:
        return []
    first = torch.randint(number, (NUM_PLANTED,), generator=generator)
    second = (first + torch.randint(1, number, (NUM_PLANTED,), generator=generator)) % number
    return list(zip(first.tolist(), second.tolist(), strict=True))
