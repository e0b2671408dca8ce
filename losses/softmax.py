"""Softmax cross entropy over the parts of a branch, with an additive margin and the focal factor."""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.loss import ClassificationLoss
from losses.options import LossOptions
from models.outputs import ClassScores
from utils.precision import at_least_fp32


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


def subtract_margin(scores: ClassScores, labels: Tensor, margin: float) -> Tensor:
    """AM-softmax: subtract a margin from the cosine of the true class.

    Args:
        scores: logits = scale * cosine, (P, B, N), with the scale (P, B); without a margin the scale may be None.
        labels: (B,) int64.
        margin: m, on the cosine; 0 changes nothing.

    Returns:
        Logits (P, B, N) float32, the true class's being scale * (cosine - m).

    Raises:
        ValueError: a margin, but the classifier is linear: its logits have no cosine.

    Source: Wang et al. 2018, arXiv 1801.05599, equations 5 and 6.
    """
    logits = at_least_fp32(scores.logits)
    if not margin:
        return logits
    if scores.scale is None:
        raise ValueError(f"a softmax margin, got {margin}, needs a cosine classifier; this one is linear")
    is_true = labels[:, None] == torch.arange(logits.shape[-1], device=labels.device)
    return torch.where(is_true, logits - margin * at_least_fp32(scores.scale)[..., None], logits)


def margin_at(margins: float | tuple[float, ...], every: int, step: int) -> float:
    """The margin at a step: each of a tuple is used for `every` steps, the last until the end; a number always.

    Raises:
        ValueError: the list is empty, or has several margins and `every` is not positive.
    """
    if not isinstance(margins, tuple):
        return margins
    if len(margins) == 1:
        return margins[0]
    if not margins or every < 1:
        raise ValueError(f"each of the softmax margins {margins} must be used for at least one step, got {every}")
    return margins[min(step // every, len(margins) - 1)]


class SoftmaxLoss(ClassificationLoss):
    """The classification loss of all parts of a branch.

    Args:
        weight: lambda.
        margin: m of `subtract_margin`; each of a tuple is used for `margin_step` steps.
        focal_gamma, label_smoothing: of `softmax_loss`.
    """

    def __init__(
        self,
        weight: float = 1.0,
        margin: float | tuple[float, ...] = 0.0,
        margin_step: int = 0,
        focal_gamma: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight)
        self.margin = margin
        self.margin_step = margin_step
        self.focal_gamma = focal_gamma
        self.label_smoothing = label_smoothing

    def forward(self, scores: ClassScores, labels: Tensor, step: int) -> Tensor:
        """Scores of (P, B, N) and labels (B,) at a step -> weighted mean over the batch, (P,)."""
        logits = subtract_margin(scores, labels, margin_at(self.margin, self.margin_step, step))
        return self.weight * softmax_loss(logits, labels, self.label_smoothing, self.focal_gamma).mean(1)


def build_softmax(options: LossOptions) -> ClassificationLoss | None:
    """The classification loss that the params describe; None: it is off."""
    if not options.tri_loss_lambda_cls:
        return None
    return SoftmaxLoss(
        options.tri_loss_lambda_cls,
        options.softmax_margin,
        options.softmax_margin_step,
        options.focal_gamma,
        options.label_smoothing,
    )
