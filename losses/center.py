"""Center loss: pulls each feature to the center of its identity, which follows the features."""

import torch
from torch import Tensor

from losses.loss import CONCAT, OnFeatures, Remembering, branch_of
from losses.options import CenterLossOptions, MetricFeature
from models.outputs import NetworkSizes
from utils.precision import at_least_fp32


def move_centers(centers: Tensor, features: Tensor, labels: Tensor, rate: float) -> Tensor:
    """The centers after a step: c_j - rate * sum_i (c_j - x_i) / (1 + n_j) over the n_j images i of identity j.

    Args:
        centers: (P, N, D).
        features: (P, B, D).
        labels: (B,) int64.
        rate: between 0 and 1.

    Source: Wen et al. 2016, "A discriminative feature learning approach for deep face recognition", ECCV, equation 4.
    """
    is_of = (labels == torch.arange(centers.shape[1], device=labels.device)[:, None]).to(centers.dtype)
    counts = is_of.sum(1, keepdim=True)
    return centers - rate * (counts * centers - is_of @ features) / (1 + counts)


class CenterLoss(Remembering):
    """Mean squared distance of the features to the centers of their identities.

    The centers are no parameters: each step moves them by `move_centers`, so that their rate depends neither on the
    loss's weight nor on the optimizer. They start at zero.

    Args:
        weight: of the loss.
        rate: of `move_centers`.
        num_classes: N.
        num_parts: P.
        dim: D.

    Source: Wen et al. 2016, equation 2, times 2 / B as in the code of Luo et al. 2019, arXiv 1903.07071.
    """

    centers: Tensor
    moved: Tensor

    def __init__(self, weight: float, rate: float, num_classes: int, num_parts: int, dim: int) -> None:
        super().__init__()
        self.weight, self.rate = weight, rate
        self.register_buffer("centers", torch.zeros(num_parts, num_classes, dim))

    def forward(self, features: Tensor, labels: Tensor, _step: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (P, B, D) and labels (B,) -> weighted mean over parts and images, and the mean distance."""
        features = at_least_fp32(features)
        squares = (features - self.centers.index_select(1, labels)).square().sum(-1)
        self.moved = move_centers(self.centers, features.detach(), labels, self.rate)
        return self.weight * squares.mean(), {"distance": squares.detach().sqrt().mean()}

    def changes(self) -> tuple[Tensor, slice, Tensor]:
        return self.centers, slice(None), self.moved


def build_center(section: CenterLossOptions, sizes: NetworkSizes | None) -> OnFeatures | None:
    """The center losses that the params describe; None: they are off.

    Centers are the same in all processes, as each moves them by the images of all.

    Raises:
        ValueError: the sizes of the network are missing.
    """
    if not section.weight:
        return None
    if sizes is None:
        raise ValueError("a center loss needs the sizes of the network")

    def loss_of(feature: MetricFeature) -> CenterLoss:
        parts, dim = sizes.branches[branch_of(feature)]
        shape = (1, parts * dim) if feature.startswith(CONCAT) else (parts, dim)
        return CenterLoss(section.weight, section.rate, sizes.num_classes, *shape)

    return OnFeatures(
        "center", {feature: loss_of(feature) for feature in section.on}, True, section.of, section.weights
    )
