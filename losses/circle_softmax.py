"""CircleSoftmax: the circle loss with the weights of the classes as its pairs."""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.softmax import is_true_class, scale_of
from models.outputs import ClassScores
from utils.precision import at_least_fp32


def circle_logits(scores: ClassScores, labels: Tensor, margin: float | Tensor) -> Tensor:
    """Multiply each cosine's distance from its threshold by its distance from its optimum.

    With the scale s, a cosine c of the true class becomes s [1 + m - c]+ (c - (1 - m)), any other s [c + m]+ (c - m).
    The factors [x]+ = max(x, 0) get no gradient.

    Args:
        scores: of a cosine classifier, (P, B, N).
        labels: (B,) int64.
        margin: m, a number or ().

    Returns:
        Logits (P, B, N), at least float32; their cross entropy is the loss.

    Raises:
        ValueError: the classifier is linear.

    Source: Sun et al. 2020, arXiv 2002.10857, equations 5 and 6, with class weights instead of images.
    """
    scale = scale_of(scores)
    cosines = at_least_fp32(scores.logits) / scale
    fixed = cosines.detach()
    of_true = F.relu(1 + margin - fixed) * (cosines - (1 - margin))
    of_others = F.relu(fixed + margin) * (cosines - margin)
    return scale * torch.where(is_true_class(scores, labels), of_true, of_others)
