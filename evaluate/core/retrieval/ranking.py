"""Exact retrieval metrics of person re-identification: CMC, mAP, mINP.

The gallery is ordered by distance, equal distances by gallery index. Queries without a true match are counted and left
out of every mean.

The metrics need only the positions of the true matches. The distances of a query are sorted without their indices,
which is much faster than an argsort, and searched for those of its matches.

Source: Zheng et al. 2015 (CMC, mAP); the evaluation code of Market-1501 (trapezoid mAP); Ye et al. 2021 (mINP).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from evaluate.core.retrieval.distances import Distances, blocks
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.topk import first_columns, sorted_rows
from utils.errors import DataError

MEMORY = 2**30
"""Default limit, in bytes, of the memory used beside the embeddings."""
BYTES_PER_PAIR, GPU_BYTES_PER_PAIR = 32, 52
"""Bytes of ranking a gallery image for a query, at most.

On a CPU the distance and a sorted copy are 8, and finding the nearest images takes more. On a GPU torch sorts fewer
than 128 rows at once in 48: distances 4, sorted distances 4 and columns 8, two buffers of row and column 16, keys 4,
and what the radix sort moves keys and values to, 12. A report also copies the distances of each camera, 4.

Source: segmented_sort_pairs_by_full_sort in aten/src/ATen/native/cuda/SortStable.cu of PyTorch.
"""


@dataclass(frozen=True)
class RankResult:
    """Metrics of each query that has a true match; V of the `num_query` queries have one.

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
    """The L nearest gallery images of each of R queries, without those that are ignored.

    order: (R, L) int64 gallery indices, nearest first, -1 where there are fewer; distance: (R, L) float32, infinite
    there; match: (R, L) bool, true matches.
    """

    order: Tensor
    distance: Tensor
    match: Tensor


def ranking_blocks(distances: Distances, memory: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of queries whose distances can be sorted within so many bytes; at least one query."""
    is_cpu = distances.device.type == "cpu"
    return blocks(distances, memory, BYTES_PER_PAIR if is_cpu else GPU_BYTES_PER_PAIR)


def rank(distances: Distances, truth: GroundTruth, memory: int = MEMORY) -> RankResult:
    """Rank the gallery for every query, on the device of the distances.

    Args:
        distances: of Q queries to G gallery images.
        truth: of the same.
        memory: bytes to use beside the embeddings; at least one query is ranked at a time.

    Raises:
        DataError: no query has a true match.
    """
    if not truth.num_matches.any():
        raise DataError(
            f"none of the {truth.shape[0]} query images has a true match, an image of the same person"
            f"{' from another camera' if truth.cross_camera else ''}, among the {truth.shape[1]} gallery images; "
            "check pids and camids"
        )
    metrics = []
    for start, stop in ranking_blocks(distances, memory):
        rows = truth.num_matches[start:stop].nonzero().flatten()
        if len(rows):
            index, is_match = truth.matches(start, stop)
            positions = match_positions(distances.rows(start, stop), index, is_match, truth.ignored(start, stop))
            num_matches = truth.num_matches[start:stop][rows]
            metrics.append((rows + start, positions[rows, 0], *per_query_metrics(positions[rows], num_matches)))
    return RankResult(*(torch.cat(parts).cpu() for parts in zip(*metrics, strict=True)), num_query=truth.shape[0])


def nearest(
    distances: Distances, truth: GroundTruth, length: int, queries: Tensor | None = None, memory: int = MEMORY
) -> RankedGallery:
    """The nearest gallery images, as `rank` orders them.

    Args:
        distances: of Q queries to G gallery images.
        truth: of the same.
        length: L, how many images for each query.
        queries: (R,) int64, the queries asked for; None = all.
        memory: as for `rank`.

    Returns:
        On the CPU.
    """
    wanted = range(truth.shape[0]) if queries is None else queries.tolist()
    length = min(length, truth.shape[1])
    spans = ranking_blocks(distances, memory) if queries is None else ((row, row + 1) for row in wanted)
    parts = []
    for start, stop in spans:
        distance = distances.rows(start, stop)
        distance[truth.ignored(start, stop)] = torch.inf
        order = first_columns(distance, length)
        found = distance.gather(1, order)
        index, is_match = truth.matches(start, stop)
        match = (order[:, :, None] == index.masked_fill(~is_match, -1)[:, None]).any(dim=2)
        parts.append((order.masked_fill(found.isinf(), -1), found, match))
    return RankedGallery(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))


def match_positions(distance: Tensor, index: Tensor, is_match: Tensor, ignored: tuple[Tensor, Tensor]) -> Tensor:
    """Positions of each query's true matches among the gallery images that are not ignored.

    Args:
        distance: (R, G) float32, finite; those of ignored images are overwritten.
        index: (R, M) int64, gallery indices of the matches.
        is_match: (R, M) bool, which of these are matches.
        ignored: rows and columns of what is ignored, (X,) int64 each.

    Returns:
        (R, M) int64 positions from 0, ascending; beyond a query's number of matches they are padding.
    """
    distance[ignored] = torch.inf
    own = distance.gather(1, index)
    in_order = sorted_rows(distance)
    positions = torch.searchsorted(in_order, own)
    # Where its distance occurs only once, a match stands where that begins; else the order of the row decides.
    is_tied = is_match & (torch.searchsorted(in_order, own, right=True) > positions + 1)
    for row in is_tied.any(dim=1).nonzero().flatten().tolist():
        place_of = torch.empty_like(order := distance[row].argsort(stable=True))
        place_of[order] = torch.arange(len(order), device=order.device)
        positions[row] = place_of[index[row]]
    return positions.masked_fill_(~is_match, distance.shape[1]).sort(dim=1).values


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
