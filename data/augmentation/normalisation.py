"""Normalisation of pixels and its inverse: one multiply-add per pixel."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Normalisation = Literal["imagenet", "half", "clip", "unit", "dpn", "satellite"]

Channels = tuple[float, float, float]
DPN_STD = 1 / (0.0167 * 255)

STATISTICS: dict[Normalisation, tuple[Channels, Channels]] = {
    # Mean and standard deviation per channel (RGB) of pixels in 0..1. These are all that timm 1.0.31 knows.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "dpn": ((124 / 255, 117 / 255, 104 / 255), (DPN_STD, DPN_STD, DPN_STD)),
    "satellite": ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143)),
}


def normalise(images: Tensor, normalisation: Normalisation, out: Tensor | None = None) -> Tensor:
    """Normalise images: (pixel / 255 - mean) / standard deviation, per channel.

    Args:
        images: (B, 3, H, W) uint8; images that are not channels-last are copied to that format first.
        out: (B, 3, H, W) channels-last of any float dtype, written if given.

    Returns:
        `out`, or float32 (B, 3, H, W) in channels-last.
    """
    return _normalised(images, normalisation, 255, out)


def normalise_unit(pixels: Tensor, normalisation: Normalisation, out: Tensor | None = None) -> Tensor:
    """`normalise` for floating-point pixels in 0..1; without `out` the result keeps their dtype."""
    return _normalised(pixels, normalisation, 1, out)


def unit_again(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    """The inverse of `normalise_unit`; noise may lie outside 0..1."""
    means, deviations = STATISTICS[normalisation]
    return _multiply_add(pixels, deviations, means)


def denormalise(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    """The inverse of `normalise`, for display: (B, 3, H, W) float32 -> uint8, clipped."""
    return unit_again(pixels, normalisation).clamp(0, 1).mul(255).round().to(torch.uint8)


def normalisation_of(mean: Sequence[float], std: Sequence[float]) -> Normalisation | None:
    """The name of a mean and a standard deviation per channel; None if they have none."""
    given = (tuple(mean), tuple(std))
    return next((name for name, statistics in STATISTICS.items() if statistics == given), None)


def _normalised(pixels: Tensor, normalisation: Normalisation, white: int, out: Tensor | None) -> Tensor:
    """Pixels in 0..white, normalised."""
    means, deviations = STATISTICS[normalisation]
    scales = tuple(1 / (white * deviation) for deviation in deviations)
    shifts = tuple(-mean / deviation for mean, deviation in zip(means, deviations, strict=True))
    return _multiply_add(pixels, scales, shifts, out)


def _multiply_add(
    pixels: Tensor, scales: tuple[float, ...], shifts: tuple[float, ...], out: Tensor | None = None
) -> Tensor:
    """(B, 3, H, W) times a scale per channel plus a shift per channel, in channels-last."""
    width = pixels.shape[3]
    # Whole rows of W * 3 numbers against a row of constants: broadcasting over 3 channels is ten times slower on a CPU.
    scale, shift = (_row(values, width, pixels.device) for values in (scales, shifts))
    rows = as_rows(pixels.contiguous(memory_format=torch.channels_last))
    return as_images(torch.addcmul(shift, rows, scale, out=None if out is None else as_rows(out)))


@lru_cache(maxsize=64)
def _row(values: tuple[float, ...], width: int, device: torch.device) -> Tensor:
    """A value per channel, repeated for each pixel of a row: (W * 3,); cached."""
    # The first caller may be in inference mode, later ones in training.
    with torch.inference_mode(False):
        return _channels(values, device).repeat(width)


def as_rows(images: Tensor) -> Tensor:
    """(B, 3, H, W) channels-last -> (B, H, W * 3), a view."""
    batch, channels, height, width = images.shape
    return images.permute(0, 2, 3, 1).view(batch, height, width * channels)


def as_images(rows: Tensor) -> Tensor:
    """The inverse of `as_rows`."""
    return rows.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)


def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3,) float32, made on the device: a copy from the host would synchronise."""
    return torch.cat([torch.full((1,), value, device=device) for value in values])
