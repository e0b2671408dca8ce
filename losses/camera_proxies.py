"""Camera-aware proxies (CAP): contrasts embeddings with a memory of one centroid per cluster and camera."""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.cluster_nce import MemoryUpdate
from losses.loss import Loss, Losses, LossInputs, Remembering
from models.outputs import FeatureKind, concat_branches
from utils.collectives import gathered
from utils.precision import at_least_fp32

EMPTY = -1
"""Cluster and camera of a row of the memory that holds no proxy."""
NUM_NEGATIVES = 50
INTER_CAMERA_WEIGHT = 0.5


def inter_camera_loss(logits: Tensor, is_positive: Tensor, is_negative: Tensor) -> Tensor:
    """Cross entropy over an image's positive proxies and its hardest negative ones, as many as `NUM_NEGATIVES`.

    Args:
        logits: (B, M), cosines divided by the temperature.
        is_positive: (B, M) bool, the target is spread evenly over these.
        is_negative: (B, M) bool, at least one for each image.

    Returns:
        (B,), 0 for images without a positive proxy.

    Source: Wang et al. 2021, arXiv 2012.10674, inter-camera contrastive loss.
    """
    # By the smallest of the hardest, as the gradient of topk would be scattered: slow where it is deterministic.
    negatives = logits.detach().masked_fill(~is_negative, -torch.inf)
    hardest = negatives.topk(min(NUM_NEGATIVES, logits.shape[1])).values
    is_compared = is_positive | (is_negative & (negatives >= hardest[:, -1:]))
    number = is_positive.sum(1)
    mean = logits.masked_fill(~is_positive, 0).sum(1) / number.clamp(min=1)
    loss = logits.masked_fill(~is_compared, -torch.inf).logsumexp(1) - mean
    return loss.masked_fill(number == 0, 0)


def move_proxies(proxies: Tensor, rows: Tensor, images: Tensor, momentum: float, update: MemoryUpdate) -> Tensor:
    """Proxies after a step: c <- m * c + (1 - m) * x, then of unit length, for images x of the same proxy.

    Args:
        proxies: (P, K, D) of unit length, the proxy of each image.
        rows: (P, K) int64, its row in the memory; images of one proxy are in the same row of P.
        images: (P, K, D), the embeddings, of unit length.
        momentum: m.
        update: "each": for the images of a proxy in turn; "hard": for the one that is least like the proxy.

    Returns:
        (P, K, D), alike where the rows are.

    Source: Wang et al. 2021, arXiv 2012.10674, proxy memory; "hard" as in `losses.cluster_nce.move_centroids`.
    """
    is_own = rows[:, :, None] == rows[:, None]
    if update == "hard":
        cosines = (proxies @ images.mT).masked_fill(~is_own, torch.inf)
        hardest = images.gather(1, cosines.argmin(2)[:, :, None].expand(-1, -1, images.shape[2]))
        return F.normalize(momentum * proxies + (1 - momentum) * hardest, dim=2)
    for image, is_moved in zip(images.unbind(1), is_own.unbind(2), strict=True):
        moved = F.normalize(momentum * proxies + (1 - momentum) * image[:, None], dim=2)
        proxies = torch.where(is_moved[:, :, None], moved, proxies)
    return proxies


class CameraProxies(Loss, Remembering):
    """Contrastive losses within and across cameras, and the memory of the proxies that they compare images with.

    A proxy is the centroid of a cluster's images of one camera. The intra-camera loss is the cross entropy over the
    proxies of the image's own camera. The inter-camera loss (`inter_camera_loss`), times 0.5, has the proxies of the
    image's cluster in other cameras as positives and the 50 most similar proxies of other clusters, of any camera, as
    negatives. Both are the sum over cameras of the mean over a camera's images in the batch of all processes.

    This is the paper's definition, except that both losses are used from the first epoch on, where the paper begins
    the second after 5 of 50 epochs. The authors' code also counts the image's own proxy among the positives.

    As in ClusterNCE, the memory has a fixed size and follows the embeddings of all processes after each step.

    Args:
        weight: of the sum of both losses.
        temperature: divides the cosines.
        momentum, update: of `move_proxies`.
        capacity: M, the largest number of proxies.
        dim: D.
        images_per_cluster: K; a batch holds K images of each of its clusters, next to each other.
        of: what retrieval compares, before ("features") or after ("embeddings") the neck.

    Source: Wang et al. 2021, arXiv 2012.10674.
    """

    memory: Tensor
    clusters: Tensor
    cameras: Tensor
    rows: Tensor
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
        super().__init__("camera_proxies", ["cameras"])
        self.weight, self.temperature, self.momentum = weight, temperature, momentum
        self.update: MemoryUpdate = update
        self.images_per_cluster = images_per_cluster
        self.of: FeatureKind = of
        self.register_buffer("memory", torch.zeros(capacity, dim))
        self.register_buffer("clusters", torch.full((capacity,), EMPTY))
        self.register_buffer("cameras", torch.full((capacity,), EMPTY))

    def begin_epoch(self, proxies: Tensor, clusters: Tensor, cameras: Tensor) -> None:
        """Replace the memory by other proxies (R, D), of unit length, of these clusters and cameras, (R,) int64."""
        for buffer, values, empty in (
            (self.memory, proxies, 0),
            (self.clusters, clusters, EMPTY),
            (self.cameras, cameras, EMPTY),
        ):
            buffer.fill_(empty)
            buffer[: len(values)] = values

    def forward(self, inputs: LossInputs) -> Losses:
        """Both losses, and the share of images whose own proxy is the nearest of their camera."""
        labels, camids = inputs.labels, inputs.camids
        assert camids is not None
        embeddings = F.normalize(at_least_fp32(concat_branches(inputs.output, self.of)), dim=1)
        logits = embeddings @ self.memory.T / self.temperature
        of_cluster, of_camera = self.clusters == labels[:, None], self.cameras == camids[:, None]
        rows = (of_cluster & of_camera).int().argmax(1)
        of_own_camera = logits.masked_fill(~of_camera, -torch.inf)
        intra = F.cross_entropy(of_own_camera, rows, reduction="none")
        inter = inter_camera_loss(logits, of_cluster & ~of_camera, ~of_cluster & (self.clusters != EMPTY))
        all_camids = gathered(camids, 0)
        of_same_camera = (camids[:, None] == all_camids).sum(1)
        # The losses of the whole are the mean of those of the processes.
        weight = self.weight * (len(all_camids) // len(camids))
        losses = {
            "intra_camera": weight * (intra / of_same_camera).sum(),
            "inter_camera": weight * INTER_CAMERA_WEIGHT * (inter / of_same_camera).sum(),
        }
        accuracy = (of_own_camera.detach().argmax(1) == rows).float().mean()
        shape = (-1, self.images_per_cluster)
        images = gathered(embeddings.detach(), 0).unflatten(0, shape)
        self.rows = gathered(rows, 0)
        proxies = self.memory.index_select(0, self.rows).unflatten(0, shape)
        moved = move_proxies(proxies, self.rows.unflatten(0, shape), images, self.momentum, self.update)
        self.moved = moved.flatten(0, 1)
        return Losses(losses, {"accuracy": accuracy})

    def changes(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.memory, self.rows, self.moved
