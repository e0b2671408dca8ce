"""How sure a finding is: what is observed is compared with mistakes that are planted on purpose in the same data."""

import torch
from scipy.optimize import isotonic_regression
from scipy.stats import ks_2samp
from torch import Tensor

BINS = 512
MOST = 0.5
"""Share of mistakes, at most."""
SIGNIFICANCE = 0.05
"""Probability of a difference by chance below which two samples differ."""
SHIFTS = 64
"""Number that are tried."""


def probability_of_mistake(observed: Tensor, planted: Tensor) -> Tensor:
    """How probable it is that each observation is a mistake.

    The observations are a mixture of right ones and mistakes. How mistakes look is known from planted ones, and how
    many there are from the observations that lie where these do; so nothing is assumed of the right ones.

    Args:
        observed: (N,) a number that is larger the more an observation looks like a mistake; positive or not a mistake.
        planted: (M,) the same number of planted mistakes.

    Returns:
        (N,) float32, 0..1, not decreasing in `observed`.

    Source: positive-unlabelled learning, Elkan and Noto 2008, Learning Classifiers from Only Positive and Unlabeled
        Data.
    """
    probability = torch.zeros(len(observed))
    candidates = observed > 0
    if not candidates.any() or not len(planted):
        return probability
    # Half of the mistakes lie beyond the median, and hardly anything else; a standard deviation is granted for chance.
    beyond = float((observed > planted.median()).sum()) + 1
    share = min(MOST, (beyond + beyond**0.5) / (0.5 * len(observed)))
    top = max(float(observed.max()), float(planted.max()))
    edges = torch.linspace(0.0, top, BINS + 1)
    width = 1.06 * float(planted.std(correction=0)) * len(planted) ** -0.2  # Silverman's rule
    width = max(width, top / BINS)
    # Every mistake that is observed is among the observations, hence the ratio is at most 1 but for noise.
    of_planted = _density(planted, edges, width) / len(planted)
    of_observed = _density(observed[candidates], edges, width) / len(observed)
    of_observed.clamp_(min=1e-12)
    ratio = (share * of_planted / of_observed).clamp(max=1.0)
    rising = torch.from_numpy(isotonic_regression(ratio.numpy(), weights=of_observed.numpy()).x)
    bins = (torch.bucketize(observed[candidates], edges) - 1).clamp(0, BINS - 1)
    probability[candidates] = rising[bins].float()
    return probability


def learned_shift(observed: Tensor, planted: Tensor) -> float:
    """By how much observed mistakes look less like mistakes than planted ones do; 0 where they look the same.

    A network that was trained on the observed labels has learned some of the mistakes in them, but none of the planted.
    The upper half of the planted is compared with the observations beyond its lower end, where hardly any right one
    lies. If these two samples differ, the shift is the one with which they agree best (Kolmogorov-Smirnov test).

    Args:
        observed, planted: as of `probability_of_mistake`.
    """
    if not len(planted):
        return 0.0
    start = float(planted.median())
    upper = planted[planted >= start] - start

    def agreement(shift: float) -> float:
        beyond = observed[observed >= start - shift] - (start - shift)
        if not len(beyond):
            return 1.0
        _, probability = ks_2samp(beyond, upper, method="asymp")
        return float(probability)  # pyright: ignore[reportArgumentType]

    if start <= 0 or agreement(0.0) >= SIGNIFICANCE:
        return 0.0
    return max(torch.linspace(0.0, start, SHIFTS).tolist(), key=agreement)


def _density(values: Tensor, edges: Tensor, width: float) -> Tensor:
    """(BINS,) how many values lie at each bin, with a Gaussian of this width around each."""
    counts = torch.histogram(values.float().cpu(), edges).hist
    centres = (edges[1:] + edges[:-1]) / 2
    kernel = torch.exp(-0.5 * ((centres[:, None] - centres) / width).square())
    return kernel @ counts / kernel.sum(dim=1)
