"""Augmentation of whole batches on the device: params and images in, what the network sees out."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from data.augmentation.colours import grey, scale_brightness, scale_contrast, scale_saturation, turn_hue
from data.augmentation.geometry import crop_and_mirror, erase_, rotate
from data.augmentation.normalisation import normalise, normalise_unit
from data.augmentation.params import AugmentParams
from data.options import DataAugmentation
from utils.device import to_device

CPU_PIXELS = 2**18
"""Pixels processed together on a CPU: few enough to stay in its caches from one step to the next."""


def augment(
    images: Tensor,
    params: AugmentParams,
    options: DataAugmentation,
    height: int,
    width: int,
    pixel_generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Training images, augmented and normalised.

    Args:
        images: (B, 3, H, W) uint8, of at least height x width once padded; channels-last ones are fastest.
        params: of these images, by `sample` with the same options and sizes.
        height, width: size of the result, pixels.
        pixel_generator: of noise, also of erased pixels, on the device of `images`; unused without these options.
        dtype: of the result; the arithmetic is float32.

    Returns:
        (B, 3, height, width) in dtype, channels-last.
    """
    shape = len(images), 3, height, width
    pixels = torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)
    for where in _chunks(len(images), CPU_PIXELS // (height * width) if images.device.type == "cpu" else len(images)):
        noise = _normal(pixels[where], pixel_generator) if options.noise else None
        fill = _normal(pixels[where], pixel_generator) if options.random_erasing.draws_noise else None
        apply(images[where], params.part(where), options, noise, fill, out=pixels[where])
    return pixels


def apply(
    images: Tensor,
    params: AugmentParams,
    options: DataAugmentation,
    noise: Tensor | None,
    fill: Tensor | None,
    out: Tensor,
) -> None:
    """Augment images in as few passes over them as possible.

    Args:
        images: (B, 3, H, W) uint8.
        params: of these images.
        noise: (B, 3, height, width) standard normal, where options.noise is on.
        fill: noise that random erasing leaves, of the same shape; None for one colour.
        out: the result, (B, 3, height, width) channels-last.
    """
    height, width = out.shape[2:]
    if params.policy is not None:
        # Not imported for trainings without it.
        from data.augmentation.auto_augment import apply_policy

        images = apply_policy(images, params.policy)
    images = crop_and_mirror(images, params.tops, params.lefts, params.mirrored, options.pads, height, width)
    if params.grey_rectangles is not None:
        # The crops are copies, which may change in place.
        erase_(images, params.grey_rectangles, grey(images).round().to(images.dtype).expand_as(images))
    if noise is None and params.leave_colours:
        normalise(images, options.normalisation, out)
    else:
        pixels = _jitter_colours(images.float().div_(255), params)
        if params.angles is not None:
            pixels = rotate(pixels, to_device(params.angles, pixels.device))
        if noise is not None:
            pixels = (pixels + options.noise * noise).clamp_(0, 1)
        normalise_unit(pixels, options.normalisation, out)
    if params.rectangles is not None:
        # After normalisation the mean colour is zero, and noise and random colours are standard normal.
        if params.fill_colours is not None:
            fill = to_device(params.fill_colours, out.device)[:, :, None, None].expand_as(out)
        erase_(out, params.rectangles, fill)


def _jitter_colours(pixels: Tensor, params: AugmentParams) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order, each where its option is on."""
    if params.brightness is not None:
        pixels = scale_brightness(pixels, to_device(params.brightness, pixels.device))
    if params.contrast is not None:
        pixels = scale_contrast(pixels, to_device(params.contrast, pixels.device))
    if params.saturation is not None:
        pixels = scale_saturation(pixels, to_device(params.saturation, pixels.device))
    if params.hue is not None:
        pixels = turn_hue(pixels, to_device(params.hue, pixels.device))
    return pixels


def _chunks(batch: int, most: int) -> Iterator[slice]:
    """Split a batch into as few slices as possible of at most `most` images, all of about the same size."""
    size = math.ceil(batch / math.ceil(batch / max(most, 1)))
    for start in range(0, batch, size):
        yield slice(start, start + size)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal float32 numbers in the shape of `like`."""
    return torch.randn(like.shape, generator=generator, device=like.device)
