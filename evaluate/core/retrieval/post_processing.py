"""Post-processing of embeddings before ranking: normalisation, averages of queries, query expansion."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from data.features import Features
from data.samples import DISTRACTOR_PID, JUNK_PID
from evaluate.core.retrieval.distances import FeatureDistances, Metric, blocks
from evaluate.core.retrieval.ranking import MEMORY
from evaluate.core.retrieval.topk import first_columns
from utils.errors import DataError

Normalisation = Literal["none", "whole", "branch"]

ROWS = 4096
"""Embeddings whose copy in float64 is in memory at a time."""
BYTES_PER_PAIR = 16
"""A distance, and what finding the nearest takes beside it."""
SMALL = 32
"""Images of a camera below which its mean and standard deviation are too uncertain; those of all images are taken."""


def normalised(features: Features, how: Normalisation) -> Features:
    """Embeddings of unit length.

    Args:
        features: N embeddings.
        how: "none": unchanged; "whole": each embedding has length 1; "branch": the part of each branch has length 1,
            so that all branches have the same weight.

    Raises:
        DataError: the sizes of the branches are unknown, or an embedding or part has length zero.
    """
    if how == "none":
        return features
    if how == "whole":
        dims = (features.features.shape[1],)
    elif features.branch_dims:
        dims = features.branch_dims
    else:
        raise DataError(
            'normalisation: "branch": nothing says which parts of an embedding belong to which branch (a feature file '
            'lists their sizes in "branch_dims"); choose "whole" or "none"'
        )
    unit = torch.empty_like(features.features)
    for start in range(0, len(unit), ROWS):
        parts = features.features[start : start + ROWS].double().split(dims, dim=1)
        for branch, (part, target) in enumerate(zip(parts, unit[start : start + ROWS].split(dims, dim=1), strict=True)):
            lengths = torch.linalg.vector_norm(part, dim=1, keepdim=True)
            if (lengths == 0).any():
                row = start + int((lengths == 0).flatten().nonzero()[0])
                raise DataError(_zero_message(features, row, branch if how == "branch" else None))
            target.copy_(part / lengths)
    return features._replace(features=unit)


def standardised_by_camera(features: Tensor, camids: Tensor) -> Tensor:
    """Embeddings standardised by camera: each number minus the camera's mean, divided by its standard deviation.

    Args:
        features: (N, D), on the CPU.
        camids: (N,) int64, the cameras.

    Returns:
        (N, D) of unit length; 0 where all images of a camera have the same embedding.

    Source: Song et al. 2025, "Exploring the Camera Bias of Person Re-identification", arXiv 2502.10195.
    """
    result = torch.empty_like(features)
    cameras, sizes = camids.unique(return_counts=True)
    # Both at once, as this mean of equal numbers is exact: what is the same everywhere becomes 0.
    of_all = torch.std_mean(features, 0) if (sizes < SMALL).any() else None
    for camid in cameras:
        rows = (camids == camid).nonzero().flatten()
        part = features[rows]
        deviation, mean = of_all if of_all and len(rows) < SMALL else torch.std_mean(part, 0)
        # In place: a camera may have most of a million images.
        part.sub_(mean).div_(deviation.clamp_min(1e-6))
        result[rows] = F.normalize(part, dim=1, out=part)
    return result


def without_camera_bias(query: Features, gallery: Features) -> tuple[Features, Features]:
    """Query and gallery, of which the embeddings of each camera are standardised together."""
    camids = torch.cat((query.camids, gallery.camids))
    found = standardised_by_camera(torch.cat((query.features, gallery.features)), camids)
    first, second = found.split((len(query.pids), len(gallery.pids)))
    return query._replace(features=first), gallery._replace(features=second)


def averaged_queries(query: Features) -> Features:
    """Average all queries of one person from one camera: multi-query.

    Normalise the embeddings first if all shall have the same weight. Each mean takes the place and the sample of its
    first image. Junk and distractors (pid -1 and 0) are not averaged.

    Market-1501's own query folder has one image of each person and camera, which leaves nothing to average; its
    multi-query test takes those in `gt_bbox` as queries.

    Source: Zheng et al. 2015, Scalable Person Re-identification.
    """
    groups: dict[tuple[int, int, int], int] = {}
    firsts: list[int] = []
    group_of: list[int] = []
    for row, (pid, camid) in enumerate(zip(query.pids.tolist(), query.camids.tolist(), strict=True)):
        key = (pid, camid, row if pid in (JUNK_PID, DISTRACTOR_PID) else -1)
        if key not in groups:
            groups[key] = len(firsts)
            firsts.append(row)
        group_of.append(groups[key])
    index = torch.tensor(group_of, dtype=torch.int64)
    # In float64 the order of summation hardly ever shows in the float32 mean.
    sums = torch.zeros(len(firsts), query.features.shape[1], dtype=torch.float64)
    for rows in torch.arange(len(index)).split(ROWS):
        sums.index_add_(0, index[rows], query.features[rows].double())
    means = sums.div_(index.bincount(minlength=len(firsts))[:, None])
    return query.at(torch.tensor(firsts, dtype=torch.int64))._replace(features=means.float())


def expanded_queries(query: Tensor, gallery: Tensor, metric: Metric, k: int, memory: int = MEMORY) -> Tensor:
    """Average query expansion: the mean of each query and the k gallery embeddings nearest to it.

    No labels are used: images from the query's own camera and junk take part too.

    Args:
        query: (Q, D) float32 embeddings.
        gallery: (G, D) likewise, on the same device.
        metric: what "nearest" means; for "cosine" the mean is that of embeddings of unit length. Equal distances
            are ordered by gallery index.
        k: 1..G.
        memory: bytes that the search may take.

    Returns:
        (Q, D) float32; for "cosine" not of unit length again.

    Raises:
        DataError: the gallery has fewer than k images, or, for "cosine", an embedding has length zero.

    Source: Chum et al. 2007, Total Recall: automatic query expansion with a generative feature model.
    """
    if k > len(gallery):
        raise DataError(
            f"query expansion by the nearest {k}: the gallery has {len(gallery)} images; choose a smaller k"
        )
    distances = FeatureDistances(query, gallery, metric)
    expanded = _summands(query, metric).clone()
    for start, stop in blocks(distances, memory, BYTES_PER_PAIR):
        # One neighbour at a time: all k at once would take k times the memory of the queries.
        for column in first_columns(distances.rows(start, stop), k).T:
            expanded[start:stop] += _summands(gallery[column], metric)
    return expanded.div_(k + 1)


def _summands(features: Tensor, metric: Metric) -> Tensor:
    return F.normalize(features, eps=0.0) if metric == "cosine" else features


def _zero_message(features: Features, row: int, branch: int | None) -> str:
    where = str(features.samples[row].path) if features.samples else f"row {row} of the features"
    part = "the embedding" if branch is None else f"branch {branch} of the embedding"
    return f'{where}: {part} has length zero and no direction; use "normalisation": "none" or leave the image out'
