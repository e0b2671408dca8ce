"""Changes of colour, each image by its own factor: pure functions of (B, 3, H, W) pixels in 0..1 and (B,) numbers."""

import torch
from torch import Tensor
from torch.nn import functional as F

GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""Luma of RGB. Source: ITU-R BT.601."""


def scale_brightness(pixels: Tensor, factors: Tensor) -> Tensor:
    """Multiply each image (B, 3, H, W) by its factor (B,); clipped to 0..1."""
    return (pixels * factors[:, None, None, None]).clamp_(0, 1)


def scale_contrast(pixels: Tensor, factors: Tensor) -> Tensor:
    """Stretch each image (B, 3, H, W) around its own mean grey by its factor (B,); clipped to 0..1."""
    # Row by row: torch adds up a lone image by threads, in another order than each of several images.
    mean_grey = grey(pixels).mean(3, keepdim=True).mean(2, keepdim=True)
    return _blend(pixels, mean_grey, factors)


def scale_saturation(pixels: Tensor, factors: Tensor) -> Tensor:
    """Stretch each pixel's distance from its own grey by the image's factor (B,); clipped to 0..1."""
    return _blend(pixels, grey(pixels), factors)


def scale_sharpness(pixels: Tensor, factors: Tensor) -> Tensor:
    """Stretch each pixel's distance from its smoothed neighbourhood by the image's factor (B,); borders stay.

    Source: PIL's ImageEnhance.Sharpness, which smooths by a 3 x 3 kernel of 1/13, and 5/13 in the centre.
    """
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = (9 * F.avg_pool2d(pixels, 3, stride=1) + 4 * pixels[:, :, 1:-1, 1:-1]) / 13
    return _blend(pixels, smooth, factors)


def turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of each image (B, 3, H, W) in 0..1 by its share (B,) of the colour circle, in HSV space."""
    highest, lowest = pixels.amax(1), pixels.amin(1)
    chroma = highest - lowest
    red, green, blue = pixels.unbind(1)
    # Sixths of the circle, counted from whichever channel is highest.
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    hue = torch.where(
        highest == red,
        (green - blue) / safe,
        torch.where(highest == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turns[:, None, None]
    # Source: the closed form of HSV -> RGB, channel n = V - C * max(0, min(k, 4 - k, 1)) with k = (n + H) mod 6.
    offsets = torch.arange(5, 0, -2, device=pixels.device)[:, None, None]
    k = (offsets + hue[:, None]) % 6
    return highest[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def grey(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) RGB -> (B, 1, H, W) luma, floating point."""
    red, green, blue = (weight * channel for weight, channel in zip(GREY_WEIGHTS, pixels.unbind(1), strict=True))
    return (red + green + blue)[:, None]


def _blend(pixels: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    """factor * pixels + (1 - factor) * other, clipped to 0..1."""
    factors = factors[:, None, None, None]
    return (factors * pixels + (1 - factors) * other).clamp_(0, 1)
