"""Augmentation of whole batches on the device: every image draws its own crop, mirror, colours and rectangle.

Each step is a pure function of the images and of per-image numbers; `augment` draws those numbers. Images are
(B, 3, H, W), uint8 before `to_unit`, then float32 in 0..1, and normalised at the end.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from data.options import DataAugmentation, RandomErasing

STATISTICS = {
    # Mean and standard deviation per channel (RGB) of pixels in 0..1; ImageNet's as torchvision's models expect them.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""Luma of RGB. Source: ITU-R BT.601."""
ERASING_ATTEMPTS = 100
"""Rectangles tried per image. Source: Zhong et al. 2017, reference code."""


def augment(images: Tensor, options: DataAugmentation, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Training images, randomly changed and normalised.

    Args:
        images: (B, 3, H', W') uint8, of at least height x width once padded.
        height, width: size of the result, pixels.
        generator: source of every random number, on the device of `images`.

    Returns:
        (B, 3, height, width) float32.
    """
    images = crop_and_mirror(images, *_draw_crops(images, options, height, width, generator), height, width)
    pixels = _jitter_colours(to_unit(images), options, generator)
    if options.rotation:
        angles = _draw_around(0.0, math.radians(options.rotation), images, generator)
        pixels = rotate(pixels, angles)
    if options.noise:
        pixels = (pixels + options.noise * _randn_like(pixels, generator)).clamp_(0, 1)
    pixels = normalise_unit(pixels, options.normalisation)
    erasing = options.random_erasing
    if erasing.probability:
        inside = draw_rectangles(len(images), height, width, erasing, generator, images.device)
        # After normalisation the mean colour is zero, and random pixels are standard normal.
        fill = torch.zeros_like(pixels) if erasing.fill == "mean" else _randn_like(pixels, generator)
        pixels = torch.where(inside[:, None], fill, pixels)
    return pixels.contiguous(memory_format=torch.channels_last)


def normalise(images: Tensor, normalisation: Literal["imagenet", "half"]) -> Tensor:
    """(B, 3, H, W) uint8 -> float32 with the normalisation's mean and standard deviation; what evaluation does."""
    return normalise_unit(to_unit(images), normalisation)


def to_unit(images: Tensor) -> Tensor:
    """uint8 -> float32 in 0..1."""
    return images.float().div_(255)


def normalise_unit(pixels: Tensor, normalisation: Literal["imagenet", "half"]) -> Tensor:
    """(B, 3, H, W) in 0..1 -> (pixels - mean) / standard deviation, per channel."""
    mean, deviation = _statistics(normalisation, pixels.device)
    return (pixels - mean) / deviation


def denormalise(pixels: Tensor, normalisation: Literal["imagenet", "half"]) -> Tensor:
    """The inverse of `normalise`, for looking at a batch: float32 -> uint8, clipped."""
    return unit_again(pixels, normalisation).clamp(0, 1).mul(255).round().to(torch.uint8)


def unit_again(pixels: Tensor, normalisation: Literal["imagenet", "half"]) -> Tensor:
    """The inverse of `normalise_unit`; noise may lie outside 0..1."""
    mean, deviation = _statistics(normalisation, pixels.device)
    return pixels * deviation + mean


def crop_and_mirror(images: Tensor, tops: Tensor, lefts: Tensor, mirrored: Tensor, height: int, width: int) -> Tensor:
    """Cut height x width out of each image, and mirror some, in one gather; what lies outside an image is zero.

    Args:
        images: (B, C, H, W) of any type.
        tops, lefts: (B,) int64, first row and column of each crop; may be negative or reach beyond the image.
        mirrored: (B,) bool.
        height, width: size of the crops, pixels.
    """
    batch, _, full_height, full_width = images.shape
    rows = tops[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(batch, width)
    columns = lefts[:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    outside = ((rows < 0) | (rows >= full_height))[:, :, None] | ((columns < 0) | (columns >= full_width))[:, None, :]
    rows, columns = rows.clamp(0, full_height - 1), columns.clamp(0, full_width - 1)
    # With the channels in the middle of an index expression they come last in the result: (B, height, width, C).
    crops = images[torch.arange(batch, device=images.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return crops.masked_fill_(outside[..., None], 0).permute(0, 3, 1, 2)


def scale_brightness(pixels: Tensor, factors: Tensor) -> Tensor:
    """Multiply each image (B, 3, H, W) by its factor (B,); clipped to 0..1."""
    return (pixels * factors[:, None, None, None]).clamp_(0, 1)


def scale_contrast(pixels: Tensor, factors: Tensor) -> Tensor:
    """Stretch each image (B, 3, H, W) around its own mean grey by its factor (B,); clipped to 0..1."""
    return _blend(pixels, grey(pixels).mean((2, 3), keepdim=True), factors)


def scale_saturation(pixels: Tensor, factors: Tensor) -> Tensor:
    """Stretch each pixel's distance from its own grey by the image's factor (B,); clipped to 0..1."""
    return _blend(pixels, grey(pixels), factors)


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
    offsets = torch.tensor((5.0, 3.0, 1.0), device=pixels.device)[:, None, None]
    k = (offsets + hue[:, None]) % 6
    return highest[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def rotate(pixels: Tensor, angles: Tensor) -> Tensor:
    """Rotate each image (B, 3, H, W) about its centre by its angle (B,) in radians, bilinearly; corners become 0."""
    height, width = pixels.shape[2:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # The sampling grid spans -1..1 on both axes whatever the shape; the ratios keep the rotation a rotation.
    matrices = torch.stack((cos, -sin * height / width, zero, sin * width / height, cos, zero), dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def draw_rectangles(
    batch: int, height: int, width: int, options: RandomErasing, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Which pixels random erasing hits: (B, H, W) bool, at most one rectangle per image.

    As in the paper an image tries rectangles (area uniform, aspect uniform between min_aspect and its inverse) until
    one is smaller than the image; here all attempts are drawn at once and the first that fits is taken.

    Source: Zhong et al. 2017, arXiv 1708.04896, algorithm 1.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    shape = (batch, ERASING_ATTEMPTS)
    areas = height * width * (options.min_area + (options.max_area - options.min_area) * uniform(*shape))
    aspects = options.min_aspect + (1 / options.min_aspect - options.min_aspect) * uniform(*shape)
    heights, widths = (areas * aspects).sqrt().round(), (areas / aspects).sqrt().round()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(1, keepdim=True)
    heights, widths = heights.gather(1, first), widths.gather(1, first)
    # A corner is drawn among the places that keep the rectangle inside.
    tops = (uniform(batch, 1) * (height - heights + 1)).floor()
    lefts = (uniform(batch, 1) * (width - widths + 1)).floor()
    hit = fits.any(1, keepdim=True) & (uniform(batch, 1) < options.probability)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows = (rows >= tops) & (rows < tops + heights)
    in_columns = (columns >= lefts) & (columns < lefts + widths)
    return (hit & in_rows)[:, :, None] & in_columns[:, None, :]


def grey(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) RGB -> (B, 1, H, W) luma."""
    return (pixels * torch.tensor(GREY_WEIGHTS, device=pixels.device)[:, None, None]).sum(1, keepdim=True)


def _statistics(normalisation: Literal["imagenet", "half"], device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (3, 1, 1) each."""
    mean, deviation = (torch.tensor(values, device=device)[:, None, None] for values in STATISTICS[normalisation])
    return mean, deviation


def _draw_crops(
    images: Tensor, options: DataAugmentation, height: int, width: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Tops, lefts and mirror flags (B,) each: uniform over the crops that fit the padded image."""
    batch, _, full_height, full_width = images.shape

    def draw(places: int) -> Tensor:
        return torch.randint(places, (batch,), generator=generator, device=images.device) - options.pad

    tops, lefts = draw(full_height + 2 * options.pad - height + 1), draw(full_width + 2 * options.pad - width + 1)
    mirrored = torch.rand(batch, generator=generator, device=images.device) < (0.5 if options.mirror else 0.0)
    return tops, lefts, mirrored


def _jitter_colours(pixels: Tensor, options: DataAugmentation, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order, each only where its option is on."""
    if options.brightness:
        pixels = scale_brightness(pixels, _draw_around(1.0, options.brightness, pixels, generator))
    if options.contrast:
        pixels = scale_contrast(pixels, _draw_around(1.0, options.contrast, pixels, generator))
    if options.saturation:
        pixels = scale_saturation(pixels, _draw_around(1.0, options.saturation, pixels, generator))
    if options.hue:
        pixels = turn_hue(pixels, _draw_around(0.0, options.hue, pixels, generator))
    return pixels


def _draw_around(centre: float, spread: float, images: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) numbers, uniform in centre +- spread."""
    return centre + spread * (2 * torch.rand(len(images), generator=generator, device=images.device) - 1)


def _randn_like(pixels: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(pixels.shape, generator=generator, device=pixels.device)


def _blend(pixels: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    """factor * pixels + (1 - factor) * other, clipped to 0..1."""
    factors = factors[:, None, None, None]
    return (factors * pixels + (1 - factors) * other).clamp_(0, 1)
