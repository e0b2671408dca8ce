"""Verification accuracy of a threshold that is chosen on some folds of the pairs and tested on another."""

import torch
from torch import Tensor


def fold_accuracies(distances: Tensor, is_genuine: Tensor, folds: Tensor) -> list[float]:
    """The accuracy on each fold with the threshold that is best on all others; on a single fold with its own.

    Args:
        distances: (N,) float32 of all pairs.
        is_genuine: (N,) bool.
        folds: (N,) int64, the fold of each pair; every fold, and the rest without it, needs pairs of both kinds.

    Source: Huang et al. 2007, Labeled Faces in the Wild.
    """
    numbers = folds.unique()
    accuracies = []
    for number in numbers:
        inside = folds == number
        others = ~inside if len(numbers) > 1 else inside
        threshold = best_threshold(distances[others & is_genuine], distances[others & ~is_genuine])
        accuracies.append(accuracy(distances[inside & is_genuine], distances[inside & ~is_genuine], threshold))
    return accuracies


def best_threshold(genuine: Tensor, impostor: Tensor) -> float:
    """The threshold of the highest accuracy, midway between the two distances it parts.

    Among several it is the smallest, which accepts the fewest impostors. It is a float32 number, so that comparing
    with it means the same in every precision; if all pairs are best accepted, it is the largest distance.

    Args are those of `roc`.
    """
    distances = torch.cat([genuine, impostor]).unique()
    accepted = torch.searchsorted(genuine.sort().values, distances, right=True)
    falsely = torch.searchsorted(impostor.sort().values, distances, right=True)
    # Compared with rejecting all pairs: those that become right at each threshold, minus those that become wrong.
    gain = (accepted - falsely).cpu().numpy()
    best = int(gain.argmax())
    if gain[best] <= 0:
        return float(distances[0].nextafter(torch.tensor(-torch.inf, device=distances.device)))
    if best + 1 == len(distances):
        return float(distances[best])
    lower, upper = distances[best], distances[best + 1]
    middle = lower + (upper - lower) / 2
    return float(middle if middle < upper else lower)


def accuracy(genuine: Tensor, impostor: Tensor, threshold: float) -> float:
    """Share of genuine (T,) and impostor (N,) distances, not both empty, that a threshold classifies correctly."""
    right = int((genuine <= threshold).sum()) + int((impostor > threshold).sum())
    return right / (len(genuine) + len(impostor))
