"""The nearest neighbours of every image in its own set, exact and in bounded memory."""

from itertools import combinations_with_replacement
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from evaluate.core.retrieval.distances import FeatureDistances, Metric, check_embeddings
from evaluate.core.retrieval.topk import NO_KEY, distances_of, indices_of, merge_smallest_
from utils.distributed import Dist, gather_rows, this_process
from utils.errors import DataError
from utils.logs import bars_hidden

TILE = 2048  # images on a side of the largest tile; larger ones are no faster
TILE_BYTES_PER_PAIR = 32  # a distance, and where distances tie two int64 keys and what selecting among them takes


class Neighbours(NamedTuple):
    """What is kept of the distances between all images; cosine, or euclidean squared.

    order: (N, K) int64, the K nearest images of each, itself among them, nearest first, ties by index; on the CPU.
    distance: (N, K) float32, how far these are; on the CPU.
    farthest: (N,) float32, distance of each image to the one farthest from it, 1 where all N are the same; on the
        features' device.
    """

    order: Tensor
    distance: Tensor
    farthest: Tensor


def nearest_neighbours(
    features: Tensor,
    count: int,
    metric: Metric = "cosine",
    memory: int = 2**30,
    *,
    is_shared: bool = False,
    is_checked: bool = False,
) -> Neighbours:
    """Compare all images with each other: N * N * D multiplications, half of which symmetry saves.

    Neither the memory nor the number of processes changes the result, except for the last bits of distances. Waits for
    a GPU twice per tile and side, for euclidean once more per tile.

    Args:
        features: (N, D) float32 embeddings; need not be of unit length.
        count: neighbours to keep, the image itself among them; all N if that is less.
        metric: distance between them; cosine, or euclidean squared.
        memory: bytes that a tile of distances may take; the K nearest of each image, 8 bytes each, come on top.
        is_shared: the processes of a run share the work. All must call this, with the same arguments, and all get the
            whole result.
        is_checked: the caller has checked the embeddings.

    Raises:
        DataError: an embedding too long for single precision; for "cosine" one of length zero.
        ValueError: an embedding is not finite.
    """
    if not is_checked:
        check_embeddings(features, metric, "features")
    dist = this_process() if is_shared else Dist()
    count = min(count, len(features))
    size = max(1, min(TILE, isqrt(memory // TILE_BYTES_PER_PAIR)))
    spans = [slice(start, min(start + size, len(features))) for start in range(0, len(features), size)]
    pairs = list(combinations_with_replacement(spans, 2))[dist.rank :: dist.world_size]
    nearest = [features.new_full((span.stop - span.start, count), NO_KEY, dtype=torch.int64) for span in spans]
    farthest = features.new_zeros(len(features))
    for a, b in tqdm(pairs, desc="neighbours", unit="tile", leave=False, disable=bars_hidden()):
        distances = FeatureDistances(features[a], features[b], metric, is_checked=True)
        tile = squared(distances, 0, a.stop - a.start, metric)
        # The tile on the other side of the diagonal is this one transposed.
        for span, other, distance in ((a, b, tile), (b, a, tile.T))[: 1 if a is b else 2]:
            index = torch.arange(other.start, other.stop, device=features.device)
            merge_smallest_(nearest[span.start // size], distance, index)
            farthest[span] = torch.maximum(farthest[span], distance.amax(dim=1))
    if dist.world_size > 1:
        nearest = [merged_over_processes(keys) for keys in nearest]
        farthest = gather_rows(farthest[None]).amax(dim=0)
    if not farthest.isfinite().all():
        raise DataError("the embeddings are too long for single precision to compare; scale them all down")
    keys = torch.cat(nearest).cpu()
    return Neighbours(indices_of(keys), distances_of(keys), farthest.masked_fill_(farthest == 0, 1.0))


def squared(distances: FeatureDistances, start: int, stop: int, metric: Metric) -> Tensor:
    """Rows start..stop of distances, the euclidean ones squared."""
    rows = distances.rows(start, stop)
    return rows if metric == "cosine" else rows.square_()


def merged_over_processes(keys: Tensor) -> Tensor:
    """The smallest keys of all processes in each row (R, K), which all processes get; all must call this."""
    return gather_rows(keys[None]).transpose(0, 1).flatten(1).topk(keys.shape[1], largest=False).values
