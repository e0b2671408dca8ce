"""Feature erasing: rows of a feature map are set to zero in training."""

import torch
from torch import Tensor, nn

from utils.precision import at_least_fp32


def band_rows(rows: int, share: float) -> int:
    """Rows of a band that feature erasing sets to zero: a share of the `rows` of a stripe or map, rounded.

    Params with which it would be none or all of the rows are refused.
    """
    return round(share * rows)


class BandErasing(nn.Module):
    """Set a band of rows to zero in each of P stripes of each image, in training only.

    Args:
        num_parts: P; with 1 the band lies anywhere in the map.
        share: of a stripe's rows, rounded to whole rows; 0 = none.
    """

    def __init__(self, num_parts: int, share: float) -> None:
        super().__init__()
        self.num_parts = num_parts
        self.share = share

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        if not self.training or self.share == 0:
            return feature_map
        batch, _, rows, _ = feature_map.shape
        band = band_rows(rows // self.num_parts, self.share)
        erased = draw_bands(batch, self.num_parts, rows, band, feature_map.device)
        return feature_map.masked_fill(erased[:, None, :, None], 0.0)


def draw_bands(
    batch: int,
    num_parts: int,
    rows: int,
    band: int,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Rows of a map to erase: (B, h) bool, in each of P stripes a band of neighbouring ones.

    Args:
        batch: B.
        num_parts: P, a divisor of `rows`.
        rows: h.
        band: rows of a band; its position in the stripe is uniform and independent of other stripes.
        device: of the result.
        generator: of the draws; None: torch's default, as for dropout.
    """
    height = rows // num_parts
    tops = torch.randint(height - band + 1, (batch, num_parts, 1), device=device, generator=generator)
    row = torch.arange(height, device=device)
    return ((row >= tops) & (row < tops + band)).flatten(1)


class TopDropBlock(nn.Module):
    """Set the rows of each image's map with the largest maximal activation to zero, in training only.

    Args:
        share: of the rows, rounded to whole rows.

    Source: Quispe and Pedrini 2020, arXiv 2010.05435 (Top-DB-Net), section 3.3.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        if not self.training:
            return feature_map
        dropped = top_rows(feature_map, band_rows(feature_map.shape[2], self.share))
        return feature_map.masked_fill(dropped[:, None, :, None], 0.0)


@torch.no_grad()
def top_rows(feature_map: Tensor, number: int) -> Tensor:
    """The rows of each image's map (B, C, h, w) with the largest maximal activation: (B, h) bool, `number` True each.

    The activation of a position is the sum of the squares of its channels. Of equal rows the upper ones are taken.
    """
    # In float16 a sum of squares would overflow.
    activations = at_least_fp32(feature_map).square().sum(1).amax(2)
    rank = activations.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < number
