"""ArcFace: a margin on the angle between an embedding and the weight of its class."""

import math

import torch
from torch import Tensor

from losses.softmax import is_true_class, scale_of
from models.outputs import ClassScores
from utils.precision import at_least_fp32

EPSILON = 1e-6
"""Cosines end so far below 1 and above -1, where the gradient of an angle would be infinite."""


def arcface_logits(scores: ClassScores, labels: Tensor, margin: float | Tensor) -> Tensor:
    """Add a margin to the angle of the true class: its logit is scale * cos(angle + m).

    Where angle + m is above 180 degrees and that would rise again, it is scale * (cos(angle) - m sin(m)), as in the
    authors' implementation.

    Args:
        scores: of a cosine classifier, (P, B, N).
        labels: (B,) int64.
        margin: m in radians, a number or ().

    Returns:
        Logits (P, B, N), at least float32; those of the other classes stay.

    Raises:
        ValueError: the classifier is linear.

    Source: Deng et al. 2019, arXiv 1801.07698, equation 3.
    """
    scale, logits = scale_of(scores), at_least_fp32(scores.logits)
    cosines = logits / scale
    angles = cosines.clamp(EPSILON - 1, 1 - EPSILON).acos() + margin
    sine = margin.sin() if isinstance(margin, Tensor) else math.sin(margin)
    lowered = torch.where(angles <= math.pi, angles.cos(), cosines - margin * sine)
    return torch.where(is_true_class(scores, labels), scale * lowered, logits)
