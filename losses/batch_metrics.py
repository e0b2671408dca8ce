"""Metrics of a training batch that belong to no loss."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.loss import Loss, Losses, LossInputs
from utils.precision import at_least_fp32


class ClassSources(NamedTuple):
    """The data sets that a training learns from."""

    names: Sequence[str]
    numbers: Sequence[int]
    """Of each class, the position of its data set in `names`."""


class BatchMetrics(Loss):
    """Accuracy of the classifiers, and what the spectral transform leaves in place.

    "accuracy" is the share of images and parts whose identity has the highest class score; "spectral_BRANCH_diagonal"
    the mean weight of an embedding in its own transform, for each branch with a spectral transform.

    With several data sets also "cross_entropy/NAME" and "accuracy/NAME" of the images of each, without margin or label
    smoothing, as sums over these divided by all images of the batch, and "share/NAME", by which to divide them: a batch
    may have no image of a data set.

    Args:
        sources: the data sets; None: they are not measured apart.
    """

    numbers: Tensor
    """(N,) int64."""

    def __init__(self, sources: ClassSources | None = None) -> None:
        super().__init__("batch_metrics")
        self.names = () if sources is None else tuple(sources.names)
        if sources is not None:
            self.register_buffer("numbers", torch.tensor(sources.numbers), persistent=False)
        self.ratios = {
            f"{kind}/{name}": f"share/{name}" for name in self.names for kind in ("cross_entropy", "accuracy")
        }

    def forward(self, inputs: LossInputs) -> Losses:
        """Metrics only."""
        branches = inputs.output
        logits = torch.cat([branch.scores.logits.detach() for branch in branches.values()])
        is_right = (logits.argmax(-1) == inputs.labels).float()
        metrics = {"accuracy": is_right.mean()}
        for name, branch in branches.items():
            if branch.spectral is not None:
                metrics[f"spectral_{name}_diagonal"] = branch.spectral.diagonal.detach()
        if self.names:
            metrics |= self._by_source(logits, is_right, inputs.labels)
        return Losses({}, metrics)

    def _by_source(self, logits: Tensor, is_right: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """From class scores (P, B, N), whether they are right (P, B), and labels (B,)."""
        # In rows: with more dimensions a GPU has no deterministic implementation.
        rows, targets = at_least_fp32(logits).flatten(0, 1), labels.repeat(len(logits))
        losses = F.cross_entropy(rows, targets, reduction="none").view_as(is_right)
        of_images = torch.stack([losses.mean(0), is_right.mean(0), torch.ones_like(losses[0])])
        numbers = self.numbers.index_select(0, labels)
        metrics: dict[str, Tensor] = {}
        for number, name in enumerate(self.names):
            sums = torch.where(numbers == number, of_images, 0.0).mean(1)
            metrics |= zip((f"cross_entropy/{name}", f"accuracy/{name}", f"share/{name}"), sums, strict=True)
        return metrics
