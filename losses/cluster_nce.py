"""ClusterNCE: contrasts embeddings with a memory of cluster centroids, which follow the embeddings of each step."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.loss import Loss, Losses, LossInputs, Remembering
from models.outputs import FeatureKind, concat_branches
from utils.collectives import gathered
from utils.precision import at_least_fp32

MemoryUpdate = Literal["each", "hard"]


def cluster_logits(embeddings: Tensor, memory: Tensor, num_clusters: Tensor | int, temperature: float) -> Tensor:
    """Cosines of embeddings and centroids, divided by the temperature; -inf for rows that hold no centroid.

    Args:
        embeddings: (B, D) of unit length.
        memory: (M, D), of unit length in the first C rows.
        num_clusters: C, a number or ().
        temperature: t.

    Returns:
        (B, M).
    """
    logits = embeddings @ memory.T / temperature
    is_empty = torch.arange(len(memory), device=memory.device) >= num_clusters
    return logits.masked_fill(is_empty, -torch.inf)


def move_centroids(centroids: Tensor, images: Tensor, momentum: float, update: MemoryUpdate) -> Tensor:
    """Centroids after a step: c <- m * c + (1 - m) * x, then of unit length, for images x of the cluster.

    Args:
        centroids: (P, D) of unit length.
        images: (P, K, D), the embeddings of K images of each cluster, of unit length.
        momentum: m.
        update: "each": for the K images in turn; "hard": for the one that is least like the centroid.

    Source: Dai et al. 2021, arXiv 2103.11568, momentum update; "hard" is the update of its first version.
    """
    if update == "hard":
        hardest = (images @ centroids[:, :, None]).argmin(1, keepdim=True).expand(-1, 1, images.shape[2])
        images = images.gather(1, hardest)
    for image in images.unbind(1):
        centroids = F.normalize(momentum * centroids + (1 - momentum) * image, dim=1)
    return centroids


class ClusterNCE(Loss, Remembering):
    """Cross entropy of each embedding over the centroids of all clusters, and the memory that holds these.

    Compares what retrieval compares: the concatenated branches, at unit length. The memory has a fixed size, so that
    compiled code serves every epoch. After each step its centroids move by the embeddings of all processes.

    Args:
        weight: of the loss.
        temperature: t of `cluster_logits`.
        momentum, update: of `move_centroids`.
        capacity: M, the largest number of clusters.
        dim: D.
        images_per_cluster: K; a batch holds K images of each of its clusters, next to each other.
        of: what retrieval compares, before ("features") or after ("embeddings") the neck.

    Source: Dai et al. 2021, arXiv 2103.11568, ClusterNCE.
    """

    memory: Tensor
    num_clusters: Tensor
    clusters: Tensor
    moved: Tensor

    def __init__(
        self,
        weight: float,
        temperature: float,
        momentum: float,
        update: MemoryUpdate,
        capacity: int,
        dim: int,
        images_per_cluster: int,
        of: FeatureKind = "embeddings",
    ) -> None:
        super().__init__("cluster_nce")
        self.weight, self.temperature, self.momentum = weight, temperature, momentum
        self.update: MemoryUpdate = update
        self.images_per_cluster = images_per_cluster
        self.of: FeatureKind = of
        self.register_buffer("memory", torch.zeros(capacity, dim))
        self.register_buffer("num_clusters", torch.zeros((), dtype=torch.int64))

    def begin_epoch(self, centroids: Tensor) -> None:
        """Replace the memory by the centroids (C, D) of other clusters, of unit length."""
        self.memory.zero_()
        self.memory[: len(centroids)] = centroids
        self.num_clusters.fill_(len(centroids))

    def forward(self, inputs: LossInputs) -> Losses:
        """The mean over the batch, and the share of images whose own centroid is the nearest."""
        labels = inputs.labels
        embeddings = F.normalize(at_least_fp32(concat_branches(inputs.output, self.of)), dim=1)
        logits = cluster_logits(embeddings, self.memory, self.num_clusters, self.temperature)
        loss = self.weight * F.cross_entropy(logits, labels)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        images = gathered(embeddings.detach(), 0).unflatten(0, (-1, self.images_per_cluster))
        self.clusters = gathered(labels, 0)[:: self.images_per_cluster]
        self.moved = move_centroids(self.memory.index_select(0, self.clusters), images, self.momentum, self.update)
        return Losses({self.name: loss}, {"accuracy": accuracy})

    def changes(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.memory, self.clusters, self.moved
