"""Exact retrieval metrics of person re-identification: CMC, mAP, mINP.

The protocol, for one query: gallery images of its pid from its own camera, and junk (pid -1), are ignored as if they
were not there. Of the rest, images of its pid are true matches and all others, distractors (pid 0) among them, are
wrong. The gallery is ordered by distance; equal distances by gallery index. A query without a true match is counted
and left out of every mean.

Each metric needs the positions of the true matches only, so the gallery is counted, not sorted.

Source: Zheng et al. 2015 (CMC, mAP); the evaluation code of Market-1501 (trapezoid mAP); Ye et al. 2021 (mINP).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data.samples import DISTRACTOR_PID, JUNK_PID
from evaluate.core.distances import Metric, pairwise_distance, prepared
from utils.errors import DataError

MEMORY = 2**27
BYTES_PER_PAIR = 48  # a distance, four int64 and a few booleans for each query and gallery image of a chunk


@dataclass(frozen=True)
class RankResult:
    """What each query that has a true match achieved; V of the `num_query` queries have one.

    Attributes:
        queries: (V,) int64, their indices.
        first: (V,) int64, position of the first true match, from 0.
        ap: (V,) float64, mean of the precision at each true match.
        ap_trapezoid: (V,) float64, area under the precision-recall curve by trapezoids.
        inp: (V,) float64, number of true matches / rank of the last one.
        num_query: Q.
    """

    queries: Tensor
    first: Tensor
    ap: Tensor
    ap_trapezoid: Tensor
    inp: Tensor
    num_query: int

    @property
    def num_query_without_match(self) -> int:
        """Queries left out of the means."""
        return self.num_query - len(self.queries)

    def cmc(self, k: int) -> float:
        """Share of the queries with a true match among the first k gallery images."""
        return (self.first < k).double().mean().item()

    @property
    def mean_ap(self) -> float:
        """mAP."""
        return self.ap.mean().item()

    @property
    def mean_ap_trapezoid(self) -> float:
        """mAP by trapezoids."""
        return self.ap_trapezoid.mean().item()

    @property
    def mean_inp(self) -> float:
        """mINP."""
        return self.inp.mean().item()


class RankedGallery(NamedTuple):
    """The whole gallery as each of R queries ranks it.

    order: (R, G) int64 gallery indices, nearest first; distance: (R, G) float32 in that order;
    match: (R, G) bool, true matches; ignored: (R, G) bool, images the metrics do not see.
    """

    order: Tensor
    distance: Tensor
    match: Tensor
    ignored: Tensor


def rank(
    query: Tensor,
    gallery: Tensor,
    query_pids: Tensor,
    query_camids: Tensor,
    gallery_pids: Tensor,
    gallery_camids: Tensor,
    metric: Metric = "cosine",
    memory: int = MEMORY,
) -> RankResult:
    """Rank the gallery for every query, on the device of the embeddings.

    Args:
        query: (Q, D) embeddings, need not be of unit length.
        gallery: (G, D) embeddings.
        query_pids, query_camids: (Q,) int64.
        gallery_pids, gallery_camids: (G,) int64.
        metric: distance between embeddings.
        memory: bytes that one chunk of queries may take; at least one query is ranked at a time.

    Raises:
        DataError: no query has a true match.
        ValueError: shapes do not fit, or an embedding is not finite.
    """
    _check(query, query_pids, query_camids, "query")
    _check(gallery, gallery_pids, gallery_camids, "gallery")
    query, gallery = prepared(query, metric), prepared(gallery, metric)
    num_rows = max(1, memory // (BYTES_PER_PAIR * max(1, len(gallery))))
    chunks = []
    for rows in torch.arange(len(query), device=query.device).split(num_rows):
        match, ignored = judge(query_pids[rows], query_camids[rows], gallery_pids, gallery_camids)
        has_match = match.any(dim=1)
        rows, match, ignored = rows[has_match], match[has_match], ignored[has_match]
        if len(rows):
            distance = pairwise_distance(query[rows], gallery, metric)
            positions, num_matches = match_positions(distance, match, ignored)
            chunks.append((rows, positions[:, 0], *per_query_metrics(positions, num_matches)))
    if not chunks:
        raise DataError(
            f"none of the {len(query)} query images has a true match, an image of the same person from another camera, "
            f"among the {len(gallery)} gallery images; check pids and camids"
        )
    return RankResult(*(torch.cat(parts).cpu() for parts in zip(*chunks, strict=True)), num_query=len(query))


def ranked_gallery(
    query: Tensor,
    gallery: Tensor,
    query_pids: Tensor,
    query_camids: Tensor,
    gallery_pids: Tensor,
    gallery_camids: Tensor,
    metric: Metric = "cosine",
) -> RankedGallery:
    """The full order of the gallery for a few queries, as `rank` sees it; arguments like `rank`'s."""
    match, ignored = judge(query_pids, query_camids, gallery_pids, gallery_camids)
    distance = pairwise_distance(prepared(query, metric), prepared(gallery, metric), metric)
    distance, order = distance.sort(dim=1, stable=True)
    return RankedGallery(order, distance, match.gather(1, order), ignored.gather(1, order))


def judge(
    query_pids: Tensor, query_camids: Tensor, gallery_pids: Tensor, gallery_camids: Tensor
) -> tuple[Tensor, Tensor]:
    """Which gallery images are true matches of each query and which are ignored: two (Q, G) bool. The rest is wrong."""
    same_pid = query_pids[:, None] == gallery_pids
    same_camid = query_camids[:, None] == gallery_camids
    is_person = (gallery_pids != JUNK_PID) & (gallery_pids != DISTRACTOR_PID)
    return same_pid & ~same_camid & is_person, (same_pid & same_camid) | (gallery_pids == JUNK_PID)


def match_positions(distance: Tensor, match: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of each query's true matches among the gallery images that are not ignored.

    Args:
        distance: (Q, G) float32, nowhere negative.
        match: (Q, G) bool, at least one true match in each row.
        ignored: (Q, G) bool.

    Returns:
        (Q, M) int64 positions from 0, ascending, M the largest number of matches; what stands behind a query's own
        number of matches means nothing. And (Q,) int64, those numbers.
    """
    num_query, num_gallery = distance.shape
    num_matches = match.sum(dim=1)
    width = int(num_matches.max())
    # Non-negative floats order like their bits. With the gallery index as the lower half no two keys are equal, so
    # ties need no further care.
    index = torch.arange(num_gallery, device=distance.device)
    keys = (distance + 0.0).view(torch.int32).long() * 2**32 + index  # + 0.0 turns -0.0, whose bits differ, into 0.0
    match_keys = keys.masked_fill(~match, torch.iinfo(torch.int64).max).topk(width, largest=False).values

    # A wrong image with s true matches ahead of it pushes match s, and all after it, one place back.
    # Images that push nothing are counted in a bin of their own, the last of each row.
    num_ahead = torch.searchsorted(match_keys, keys).masked_fill_(match | ignored, width)
    bins = num_ahead + torch.arange(num_query, device=distance.device)[:, None] * (width + 1)
    pushes = bins.flatten().bincount(minlength=num_query * (width + 1)).view(num_query, width + 1)
    return pushes.cumsum(dim=1)[:, :width] + torch.arange(width, device=distance.device), num_matches


def per_query_metrics(positions: Tensor, num_matches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """AP, trapezoid AP and INP of each query.

    Args:
        positions: (Q, M) int64, as `match_positions` returns them.
        num_matches: (Q,) int64, 1..M.

    Returns:
        Three (Q,) float64.
    """
    hits = torch.arange(positions.shape[1], device=positions.device)
    real = hits < num_matches[:, None]
    precision = (hits + 1).double() / (positions + 1)
    # Precision one position earlier, before this match was met; an empty list counts as 1.
    precision_before = torch.where(positions > 0, hits.double() / positions.clamp(min=1), 1.0)
    ap = (precision * real).sum(dim=1) / num_matches
    ap_trapezoid = ((precision_before + precision) / 2 * real).sum(dim=1) / num_matches
    last = positions.gather(1, num_matches[:, None] - 1).squeeze(1)
    return ap, ap_trapezoid, num_matches.double() / (last + 1)


def _check(features: Tensor, pids: Tensor, camids: Tensor, name: str) -> None:
    if features.ndim != 2 or pids.shape != (len(features),) or camids.shape != (len(features),):
        raise ValueError(
            f"{name}: features (N, D), pids (N,) and camids (N,) expected, "
            f"got {tuple(features.shape)}, {tuple(pids.shape)}, {tuple(camids.shape)}"
        )
    if not features.isfinite().all():
        raise ValueError(f"{name}: features hold NaN or infinity")
