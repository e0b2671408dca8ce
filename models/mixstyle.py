"""MixStyle: the statistics of an image's feature map are mixed with those of another image, in training only."""

import torch
from torch import Tensor, nn

from utils.precision import at_least_fp32

EPSILON = 1e-6
"""Added to the variance of a channel."""


class MixStyle(nn.Module):
    """Give each channel of a map a mean and a standard deviation between its own and those of another image.

    The statistics are without gradient. All numbers are drawn from torch's default generator, as for dropout.

    Args:
        probability: that a batch is mixed.
        alpha: the share of an image's own statistics is of the distribution Beta(alpha, alpha).
        across_cameras: the other image is one of another camera, if the batch has any; otherwise any image.

    Source: Zhou et al. 2021, arXiv 2104.02008, section 3.2, equations 4 to 6 (with the domain labels of re-ID, which
    are cameras, section 4.3).
    """

    def __init__(self, probability: float, alpha: float, across_cameras: bool = False) -> None:
        super().__init__()
        self.probability = probability
        self.alpha = alpha
        self.across_cameras = across_cameras

    def forward(self, features: Tensor, camids: Tensor | None = None) -> Tensor:
        """Map (B, C, h, w) and cameras (B,) of the images -> the same shape.

        Raises:
            ValueError: no cameras in training, where they decide.
        """
        if not self.training:
            return features
        if self.across_cameras and camids is None:
            raise ValueError("MixStyle across cameras needs the cameras of the images")
        others = draw_partners(len(features), camids if self.across_cameras else None, features.device)
        shares = draw_shares(len(features), self.alpha, features.device)
        is_mixed = torch.rand((), device=features.device) < self.probability
        return mix_styles(features, others, torch.where(is_mixed, shares, 1.0))


def mix_styles(features: Tensor, others: Tensor, shares: Tensor) -> Tensor:
    """Map (B, C, h, w), positions (B,) of other images, shares (B,) of the own statistics -> the same shape."""
    with torch.no_grad():
        variance, mean = torch.var_mean(at_least_fp32(features), dim=(2, 3), correction=0, keepdim=True)
        deviation = (variance + EPSILON).sqrt()
        shares = shares[:, None, None, None]
        new_mean = shares * mean + (1 - shares) * mean[others]
        factor = (shares * deviation + (1 - shares) * deviation[others]) / deviation
        offset = new_mean - factor * mean
    return features * factor.to(features.dtype) + offset.to(features.dtype)


def draw_shares(number: int, alpha: float, device: torch.device) -> Tensor:
    """Draws (B,) from Beta(alpha, alpha).

    A gamma variable of a small shape would underflow to 0; this one is drawn as its logarithm.

    Source: Marsaglia and Tsang 2000, ACM TOMS 26(3), section 6: Gamma(alpha) = Gamma(alpha + 1) U^(1 / alpha).
    """
    larger = torch._standard_gamma(torch.full((2, number), alpha + 1, device=device))  # pyright: ignore[reportPrivateImportUsage]
    first, second = larger.log() + (-torch.rand(2, number, device=device)).log1p() / alpha
    return torch.sigmoid(first - second)


def draw_partners(number: int, camids: Tensor | None, device: torch.device) -> Tensor:
    """For each of B images another one of the batch (B,): by a random permutation, or a random one of other cameras.

    An image all of whose batch is of its own camera gets any.

    Args:
        number: B.
        camids: (B,) cameras; None: a permutation.
        device: of the result.
    """
    if camids is None:
        return torch.rand(number, device=device).argsort()
    keys = torch.rand(number, number, device=device)
    return (keys + (camids[:, None] != camids)).argmax(1)
