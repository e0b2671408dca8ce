"""k-reciprocal encodings: sparse weights of images on their few reciprocal neighbours, and what two of them share.

Source: Zhong, Zheng, Cao, Li 2017, Re-ranking Person Re-identification with k-reciprocal Encoding.
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from evaluate.core.retrieval.distances import Metric
from utils.errors import DataError

ENTRY_BYTES = 32  # an entry of a sparse matrix, and the temporary results of summing it
NUM_LISTED = 2**31 - 1  # neighbours of all images together: what int32, the index of sparse matrices, can count
PAIR_BYTES = 2**22  # embeddings of pairs in memory at a time: fits the processor's cache
GPU_PAIR_BYTES = 2**28  # the same on a GPU, where each part is a few launches of kernels


class SharedWeights:
    """The weights that R images and G others share: of each pair and image k the smaller of their weights on k.

    Args:
        rows: (R, N) float32 encodings.
        columns: (G, N) likewise.
        memory: bytes that the terms of a span may take.
    """

    def __init__(self, rows: csr_array, columns: csr_array, memory: int) -> None:
        self.shape = (len(rows.indptr) - 1, len(columns.indptr) - 1)
        self._rows, self._num_terms = rows, memory // ENTRY_BYTES
        # For each image: which columns put a weight on it, and what weight.
        self._inverted = csr_array(columns.T)
        terms = np.diff(self._inverted.indptr).astype(np.int64)[rows.indices]
        self._terms_before = np.concatenate(([0], terms.cumsum()))[rows.indptr]

    def spans(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Parts of the rows start..stop whose terms fit the memory, one row at least."""
        while start < stop:
            limit = self._terms_before[start] + self._num_terms
            end = min(stop, max(start + 1, int(np.searchsorted(self._terms_before, limit, side="right")) - 1))
            yield start, end
            start = end

    def terms(self, start: int, stop: int) -> csr_array:
        """(stop - start, G) float32; a row holds a pair once for every image on which both have a weight."""
        rows = self._rows[start:stop]
        # One row of terms for each weight of a row; those of one row, laid end to end, are its row of the sum.
        terms = self._inverted[rows.indices]
        values = np.minimum(terms.data, np.repeat(rows.data, np.diff(terms.indptr)))
        return csr_array((values, terms.indices, terms.indptr[rows.indptr]), shape=(stop - start, self.shape[1]))


def encode(features: Tensor, metric: Metric, order: Tensor, k1: int, unit: Tensor, memory: int) -> csr_array:
    """Weights of each image on those it is reciprocally near to, in the expanded sense.

    Where more than k1 + 1 images are the same, some are not even among their own neighbours and have no weights.

    Args:
        features: (N, D) float32 embeddings, for "cosine" of unit length.
        metric: distance between them; cosine, or euclidean squared.
        order: (N, K) int64, the nearest of each, nearest first, the image itself among them; on the CPU.
        k1: neighbours, besides the first, in which reciprocal ones are sought; all K - 1 if that is less.
        unit: (N,) float32 on the features' device, the distance from each image that lowers a weight to 1 / e.
        memory: bytes that temporary results may take.

    Returns:
        (N, N) float32, rows of sum 1.
    """
    half = round(k1 / 2)
    within, within_half = reciprocal(order[:, : k1 + 1]), reciprocal(order[:, : half + 1])
    size = max(1, memory // (ENTRY_BYTES * (k1 + 1) * (half + 1)))
    codes = []
    for start in range(0, len(features), size):
        code = expanded(within[start : start + size], within_half)
        counts = np.diff(code.indptr)
        rows = torch.from_numpy(np.repeat(np.arange(start, start + len(counts)), counts))
        distance = pair_distances(features, rows, torch.from_numpy(code.indices.astype(np.int64)), metric)
        code.data = distance.div_(unit[rows.to(distance.device)]).neg_().exp_().cpu().numpy()
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


def check_listable(number: int, count: int, key: str, *, besides: int = 0) -> None:
    """Check that the neighbours of so many images can be listed.

    Args:
        number: of images.
        count: neighbours of each, the value of `key`.
        key: for the message.
        besides: neighbours of each that are listed besides these.

    Raises:
        DataError: they cannot.
    """
    if number * min(count + besides, number) > NUM_LISTED:
        raise DataError(
            f"{key}: {count} neighbours of each of {number} images are too many to list, "
            f"at most {NUM_LISTED // number - besides} are possible; lower {key}"
        )
