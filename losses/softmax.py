"""Softmax cross entropy over the parts of a branch."""

from torch import Tensor
from torch.nn import functional as F


def softmax_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy of every part and image.

    Args:
        logits: (P, B, N).
        labels: (B,) int64 in 0..N-1, shared by all parts.
        label_smoothing: share of the target spread evenly over all N classes.

    Returns:
        (P, B) float32.
    """
    parts, batch, _ = logits.shape
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), labels.repeat(parts), reduction="none", label_smoothing=label_smoothing
    )
    return losses.view(parts, batch)
