"""k-reciprocal re-ranking: images are close if they share reciprocal nearest neighbours.

All N = Q + G images are compared with each other, in tiles; only the k1 + 1 nearest of each are kept. Everything else
is sparse: an image is encoded by weights on its few reciprocal neighbours.

Source: Zhong, Zheng, Cao, Li 2017, Re-ranking Person Re-identification with k-reciprocal Encoding.
"""

from itertools import combinations_with_replacement
from math import isqrt
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor
from tqdm import tqdm

from evaluate.core.retrieval.distances import FeatureDistances, Metric
from evaluate.core.retrieval.topk import smallest
from utils.errors import DataError
from utils.logs import bars_hidden

TILE = 2048  # images on a side of the largest tile; larger ones are no faster
TILE_BYTES_PER_PAIR = 32  # a distance, and where distances tie two int64 keys and what selecting among them takes
ENTRY_BYTES = 32  # an entry of a sparse matrix, and the temporary results of summing it
NUM_LISTED = 2**31 - 1  # neighbours of all images together: what int32, the index of sparse matrices, can count
PAIR_BYTES = 2**22  # embeddings of pairs in memory at a time: fits the processor's cache
GPU_PAIR_BYTES = 2**28  # the same on a GPU, where each part is a few launches of kernels


class Neighbours(NamedTuple):
    """What is kept of the distances between all images.

    order: (N, K) int64, the K nearest images of each, itself among them, nearest first, ties by index; on the CPU.
    farthest: (N,) float32, distance of each image to the one farthest from it, 1 where all N are the same; on the
        features' device. Cosine, or euclidean squared.
    """

    order: Tensor
    farthest: Tensor


class KReciprocalDistances:
    """Distances after re-ranking, as `Distances` describes them.

    The constructor does the work that needs all images: N * N * D multiplications, half of which symmetry saves. It
    runs on the features' device, as do the distances in `rows`; the sparse part runs on the CPU.

    Args:
        query: (Q, D) float32 embeddings.
        gallery: (G, D) likewise, on the same device.
        metric: distance between embeddings. "cosine" is used as it is, "euclidean" squared: for embeddings of unit
            length they are the same up to a factor, which cancels.
        k1: neighbours in which reciprocal ones are sought, at least 1.
        k2: neighbours, the image itself among them, whose encodings are averaged, 1..k1 + 1; 1 = no averaging.
        lambda_value: weight of the distance between embeddings, 0..1; the Jaccard distance has the rest.
        memory: bytes that temporary results may take.

    Raises:
        DataError: as `FeatureDistances` says; or N images have 2**31 neighbours or more, k1 + 1 each.
    """

    def __init__(
        self,
        query: Tensor,
        gallery: Tensor,
        metric: Metric,
        k1: int = 20,
        k2: int = 6,
        lambda_value: float = 0.3,
        memory: int = 2**30,
    ) -> None:
        self._distances = FeatureDistances(query, gallery, metric)
        self.shape, self.device = self._distances.shape, self._distances.device
        _check_listable(sum(self.shape), k1)
        self._metric: Metric = metric
        self._lambda, self._num_terms = lambda_value, memory // ENTRY_BYTES
        features = torch.cat((query, gallery)).float()
        if metric == "cosine":
            # So that differences give the distances of single pairs; the copy is ours to write into.
            features.div_(torch.linalg.vector_norm(features, dim=1, keepdim=True))
        near = neighbours(features, metric, k1 + 1, memory)
        codes = encode(features, metric, near, k1, memory)
        num_query = self.shape[0]
        self._farthest = near.farthest[:num_query, None]
        self._query = averaged(codes, near.order[:num_query, :k2])
        # For each image: which gallery images put a weight on it, and what weight.
        self._inverted = csr_array(averaged(codes, near.order[num_query:, :k2]).T)
        terms = np.diff(self._inverted.indptr).astype(np.int64)[self._query.indices]
        self._terms_before = np.concatenate(([0], terms.cumsum()))[self._query.indptr]

    def rows(self, start: int, stop: int) -> Tensor:
        """(stop - start, G) float32 on the features' device, as `Distances` says."""
        distance = _squared(self._distances, start, stop, self._metric).div_(self._farthest[start:stop])
        # 1 - s / (2 - s), in another form: s is the weight that two images of total weight 1 have in common.
        jaccard = 2 - 2 / (2 - self._overlap(start, stop).to(self.device))
        return distance.mul_(self._lambda).add_(jaccard.clamp_(min=0), alpha=1 - self._lambda)

    def _overlap(self, start: int, stop: int) -> Tensor:
        """(stop - start, G) float32: sum over all images k of min(weight of query on k, weight of gallery on k)."""
        overlap = np.empty((stop - start, self.shape[1]), np.float32)
        row = start
        while row < stop:
            limit = self._terms_before[row] + self._num_terms
            end = min(stop, max(row + 1, int(np.searchsorted(self._terms_before, limit, side="right")) - 1))
            self._write_overlap(row, end, overlap[row - start : end - start])
            row = end
        return torch.from_numpy(overlap)

    def _write_overlap(self, start: int, stop: int, out: np.ndarray) -> None:
        query = self._query[start:stop]
        # One row of terms for each weight of a query; the rows of one query, laid end to end, are its row of the sum.
        terms = self._inverted[query.indices]
        values = np.minimum(terms.data, np.repeat(query.data, np.diff(terms.indptr)))
        # toarray adds up what stands in the same place.
        csr_array((values, terms.indices, terms.indptr[query.indptr]), shape=out.shape).toarray(out=out)


def neighbours(features: Tensor, metric: Metric, count: int, memory: int) -> Neighbours:
    """Compare all images with each other. Waits for a GPU once per tile and side, for euclidean once more per tile.

    Args:
        features: (N, D) float32 embeddings, checked by the caller.
        metric: distance between them; cosine, or euclidean squared.
        count: neighbours to keep, the image itself among them; all N if that is less.
        memory: bytes that a tile of distances may take.

    Raises:
        DataError: the embeddings of a tile, among themselves, are too long for single precision.
    """
    size = max(1, min(TILE, isqrt(memory // TILE_BYTES_PER_PAIR)))
    spans = [slice(start, min(start + size, len(features))) for start in range(0, len(features), size)]
    pairs = list(combinations_with_replacement(spans, 2))
    nearest = [features.new_empty((span.stop - span.start, 0), dtype=torch.int64) for span in spans]
    farthest = features.new_zeros(len(features))
    for a, b in tqdm(pairs, desc="re-ranking", unit="tile", leave=False, disable=bars_hidden()):
        distances = FeatureDistances(features[a], features[b], metric, is_checked=True)
        tile = _squared(distances, 0, a.stop - a.start, metric)
        # The tile on the other side of the diagonal is this one transposed.
        for span, other, distance in ((a, b, tile), (b, a, tile.T))[: 1 if a is b else 2]:
            place = span.start // size
            found = torch.cat((nearest[place], smallest(distance, count, other.start)), dim=1)
            nearest[place] = found.topk(min(count, found.shape[1]), largest=False).values
            farthest[span] = torch.maximum(farthest[span], distance.amax(dim=1))
    if not farthest.isfinite().all():
        raise DataError("the embeddings are too long for single precision to compare; scale them all down")
    return Neighbours(torch.cat(nearest).bitwise_and_(2**32 - 1).cpu(), farthest.masked_fill_(farthest == 0, 1.0))


def encode(features: Tensor, metric: Metric, near: Neighbours, k1: int, memory: int) -> csr_array:
    """(N, N) float32: weights, of sum 1, of each image on those it is reciprocally near to, in the expanded sense.

    Where more than k1 + 1 images are the same, some are not even among their own neighbours and have no weights.
    """
    half = round(k1 / 2)
    within, within_half = reciprocal(near.order[:, : k1 + 1]), reciprocal(near.order[:, : half + 1])
    size = max(1, memory // (ENTRY_BYTES * (k1 + 1) * (half + 1)))
    codes = []
    for start in range(0, len(features), size):
        code = expanded(within[start : start + size], within_half)
        counts = np.diff(code.indptr)
        rows = torch.from_numpy(np.repeat(np.arange(start, start + len(counts)), counts))
        distance = pair_distances(features, rows, torch.from_numpy(code.indices.astype(np.int64)), metric)
        code.data = distance.div_(near.farthest[rows.to(distance.device)]).neg_().exp_().cpu().numpy()
        code.data /= np.repeat(code.sum(axis=1), counts)
        codes.append(code)
    return csr_array(vstack(codes))


def reciprocal(order: Tensor) -> csr_array:
    """(N, N) int32, 1 where two images are among each other's neighbours; order (N, K), the neighbours of each."""
    near = _listed(order, np.int32(1), len(order))
    near.sort_indices()
    return csr_array(near.multiply(csr_array(near.T)))


def expanded(within: csr_array, within_half: csr_array) -> csr_array:
    """Reciprocal neighbours of R images, and those of their neighbours that lie for the most part among them.

    Args:
        within: (R, N) int32, 1 for the reciprocal neighbours of these images.
        within_half: (N, N) int32, 1 for those of every image within half as many; symmetric.

    Returns:
        (R, N) int32, not zero for the images in the expanded set.
    """
    shared = csr_array(csr_array(within @ within_half).multiply(within))
    sizes = np.diff(within_half.indptr)
    shared.data = (3 * shared.data > 2 * sizes[shared.indices]).astype(np.int32)
    shared.eliminate_zeros()
    return csr_array(within + shared @ within_half)


def pair_distances(features: Tensor, rows: Tensor, columns: Tensor, metric: Metric) -> Tensor:
    """(P,) float32: distances, cosine or euclidean squared, of image rows[p] and image columns[p].

    The features are (N, D) float32, for "cosine" of unit length; rows and columns (P,) int64.
    """
    pair_bytes = PAIR_BYTES if features.device.type == "cpu" else GPU_PAIR_BYTES
    size = max(1, pair_bytes // (8 * features.shape[1]))
    rows, columns = rows.to(features.device), columns.to(features.device)
    lengths = features.new_empty(len(rows))
    for left, right, length in zip(rows.split(size), columns.split(size), lengths.split(size), strict=True):
        difference = features.index_select(0, left).sub_(features.index_select(0, right))
        torch.linalg.vector_norm(difference, dim=1, out=length)
    return lengths.square_().div_(2) if metric == "cosine" else lengths.square_()


def averaged(codes: csr_array, order: Tensor) -> csr_array:
    """(R, N) float32: the mean of the rows of `codes`, (N, N), that each row of `order`, (R, K), names."""
    return csr_array(_listed(order, np.float32(1 / order.shape[1]), len(codes.indptr) - 1) @ codes)


def _listed(order: Tensor, value: np.generic, width: int) -> csr_array:
    """(R, width), `value` in the columns that each row of `order`, (R, K), lists."""
    number, count = order.shape
    starts = np.arange(number + 1, dtype=np.int32) * count
    columns = order.flatten().numpy().astype(np.int32)
    return csr_array((np.full(order.numel(), value), columns, starts), shape=(number, width))


def _squared(distances: FeatureDistances, start: int, stop: int, metric: Metric) -> Tensor:
    rows = distances.rows(start, stop)
    return rows if metric == "cosine" else rows.square_()


def _check_listable(number: int, k1: int) -> None:
    if number * min(k1 + 1, number) > NUM_LISTED:
        raise DataError(
            f"k_reciprocal.k1: {k1} neighbours of each of {number} images are too many to list, "
            f"at most {NUM_LISTED // number - 1} are possible; lower k_reciprocal.k1"
        )
