"""Softmax cross entropy over the parts of a branch, with a margin and the focal factor."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.loss import ClassificationLoss
from models.outputs import ClassScores
from utils.precision import at_least_fp32

ApplyMargin = Callable[[ClassScores, Tensor, "float | Tensor"], Tensor]
"""Scores (P, B, N), labels (B,) and a margin -> logits (P, B, N), at least float32."""


def softmax_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, focal_gamma: float = 0.0) -> Tensor:
    """Cross entropy of every part and image, times (1 - p)^gamma with p the probability of the true class.

    Args:
        logits: (P, B, N).
        labels: (B,) int64 in 0..N-1, shared by all parts.
        label_smoothing: share of the target spread evenly over all N classes; the factor does not change with it.
        focal_gamma: gamma; 0 leaves the cross entropy as it is.

    Returns:
        (P, B) float32.

    Source: Lin et al. 2017, arXiv 1708.02002, equation 4.
    """
    parts, batch, _ = logits.shape
    flat, targets = at_least_fp32(logits).flatten(0, 1), labels.repeat(parts)
    losses = F.cross_entropy(flat, targets, reduction="none", label_smoothing=label_smoothing)
    if focal_gamma:
        missed = -torch.expm1(-F.cross_entropy(flat, targets, reduction="none"))
        # At p = 1 the gradient for gamma < 1 is infinite; eps is the resolution of float32 near 1.
        losses = losses * missed.clamp_min(torch.finfo(missed.dtype).eps) ** focal_gamma
    return losses.view(parts, batch)


def share_over_all(label_smoothing: float, num_classes: int) -> float:
    """The share which, spread over all N classes, gives each class but the true one label_smoothing / (N - 1)."""
    return label_smoothing * num_classes / max(num_classes - 1, 1)


def subtract_margin(scores: ClassScores, labels: Tensor, margin: float | Tensor) -> Tensor:
    """AM-softmax, also called CosFace: subtract a margin from the cosine of the true class.

    Args:
        scores: logits = scale * cosine, (P, B, N), with the scale (P, B); without a margin the scale may be None.
        labels: (B,) int64.
        margin: m, on the cosine, a number or (); the number 0 changes nothing.

    Returns:
        Logits (P, B, N) float32, the true class's being scale * (cosine - m).

    Raises:
        ValueError: a margin, but the classifier is linear: its logits have no cosine.

    Source: Wang et al. 2018, arXiv 1801.05599, equations 5 and 6.
    """
    logits = at_least_fp32(scores.logits)
    if not isinstance(margin, Tensor) and not margin:
        return logits
    return torch.where(is_true_class(scores, labels), logits - margin * scale_of(scores), logits)


def is_true_class(scores: ClassScores, labels: Tensor) -> Tensor:
    """Scores (P, B, N) and labels (B,) -> (B, N) bool."""
    return labels[:, None] == torch.arange(scores.logits.shape[-1], device=labels.device)


def scale_of(scores: ClassScores) -> Tensor:
    """The factor between cosines and logits, (P, B, 1), at least float32.

    Raises:
        ValueError: the classifier is linear.
    """
    if scores.scale is None:
        raise ValueError("a softmax margin needs a cosine classifier; this one is linear")
    return at_least_fp32(scores.scale)[..., None]


class MarginSchedule(nn.Module):
    """The margin at a step: each of several is used for `every` steps, the last until the end.

    Raises:
        ValueError: there is no margin, or there are several and `every` is not positive.
    """

    margins: Tensor

    def __init__(self, margins: Sequence[float], every: int) -> None:
        super().__init__()
        if not margins or (len(margins) > 1 and every < 1):
            raise ValueError(f"each of the softmax margins {margins} must be used for at least one step, got {every}")
        self.every = max(1, every)
        self.register_buffer("margins", torch.tensor(margins), persistent=False)

    def forward(self, step: Tensor) -> Tensor:
        """() int64 -> (), without waiting for the device."""
        place = (step // self.every).clamp_max(len(self.margins) - 1)
        # Not by `take`, for which inductor of torch 2.11 reads the number.
        return self.margins.index_select(0, place[None])[0]


class SoftmaxLoss(ClassificationLoss):
    """The classification loss of all parts of a branch.

    Args:
        weight: lambda.
        margin: m of `apply_margin`, or a schedule of it.
        focal_gamma, label_smoothing: of `softmax_loss`.
        smooth_over: the classes over which the share is spread: all, or all but the true one.
        apply_margin: what the margin does to the class scores.
    """

    def __init__(
        self,
        weight: float = 1.0,
        margin: float | MarginSchedule = 0.0,
        focal_gamma: float = 0.0,
        label_smoothing: float = 0.0,
        smooth_over: Literal["all", "others"] = "all",
        apply_margin: ApplyMargin = subtract_margin,
    ) -> None:
        super().__init__(weight)
        self.margin = margin
        self.focal_gamma = focal_gamma
        self.label_smoothing = label_smoothing
        self.smooth_over: Literal["all", "others"] = smooth_over
        self.apply_margin = apply_margin

    def forward(self, scores: ClassScores, labels: Tensor, step: Tensor) -> Tensor:
        """Scores of (P, B, N), labels (B,) and the step, () int64 -> weighted mean over the batch, (P,)."""
        margin = self.margin(step) if isinstance(self.margin, MarginSchedule) else self.margin
        logits, smoothing = self.apply_margin(scores, labels, margin), self.label_smoothing
        if self.smooth_over == "others":
            smoothing = share_over_all(smoothing, logits.shape[-1])
        return self.weight * softmax_loss(logits, labels, smoothing, self.focal_gamma).mean(1)
