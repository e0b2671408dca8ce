"""k-reciprocal re-ranking: images are close if they share reciprocal nearest neighbours.

All N = Q + G images are compared with each other, in tiles; only the k1 + 1 nearest of each are kept. Everything else
is sparse: an image is encoded by weights on its few reciprocal neighbours.

Source: Zhong, Zheng, Cao, Li 2017, Re-ranking Person Re-identification with k-reciprocal Encoding.
"""

import numpy as np
import torch
from torch import Tensor

from evaluate.core.retrieval.distances import FeatureDistances, Metric
from evaluate.core.retrieval.encodings import SharedWeights, averaged, check_listable, encode
from evaluate.core.retrieval.neighbours import nearest_neighbours, squared


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
        check_listable(sum(self.shape), k1, "k_reciprocal.k1", besides=1)
        self._metric: Metric = metric
        self._lambda = lambda_value
        features = torch.cat((query, gallery)).float()
        if metric == "cosine":
            # So that differences give the distances of single pairs; the copy is ours to write into.
            features.div_(torch.linalg.vector_norm(features, dim=1, keepdim=True))
        near = nearest_neighbours(features, k1 + 1, metric, memory, is_checked=True)
        codes = encode(features, metric, near.order, k1, near.farthest, memory)
        num_query = self.shape[0]
        self._farthest = near.farthest[:num_query, None]
        query_codes, gallery_codes = (averaged(codes, part[:, :k2]) for part in near.order.tensor_split([num_query]))
        self._shared = SharedWeights(query_codes, gallery_codes, memory)

    def rows(self, start: int, stop: int) -> Tensor:
        """(stop - start, G) float32 on the features' device, as `Distances` says."""
        distance = squared(self._distances, start, stop, self._metric).div_(self._farthest[start:stop])
        # 1 - s / (2 - s), in another form: s is the weight that two images of total weight 1 have in common.
        jaccard = 2 - 2 / (2 - self._overlap(start, stop).to(self.device))
        return distance.mul_(self._lambda).add_(jaccard.clamp_(min=0), alpha=1 - self._lambda)

    def _overlap(self, start: int, stop: int) -> Tensor:
        """(stop - start, G) float32: sum over all images k of min(weight of query on k, weight of gallery on k)."""
        overlap = np.empty((stop - start, self.shape[1]), np.float32)
        for first, end in self._shared.spans(start, stop):
            # toarray adds up what stands in the same place.
            self._shared.terms(first, end).toarray(out=overlap[first - start : end - start])
        return torch.from_numpy(overlap)
