"""The random numbers of augmentation, sampled for a whole batch before it is augmented."""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from data.options import DataAugmentation, RandomRectangle

ERASING_ATTEMPTS = 100
"""Rectangles tried per image. Source: Zhong et al. 2017, reference code."""


class AugmentParams(NamedTuple):
    """Parameters of B images, on the CPU, whatever the device of the images; None where the option is off."""

    tops: Tensor
    """(B,) int64, first row of the crop; negative in the padding."""
    lefts: Tensor
    """(B,) int64, first column of the crop."""
    mirrored: Tensor | None
    """(B,) bool."""
    brightness: Tensor | None
    """(B,) factors, as contrast and saturation."""
    contrast: Tensor | None
    saturation: Tensor | None
    hue: Tensor | None
    """(B,) shares of the colour circle."""
    angles: Tensor | None
    """(B,) radians."""
    rectangles: Tensor | None
    """(B, 4) int64: top, left, height and width of the erased rectangle in the crop; height 0 = nothing."""
    fill_colours: Tensor | None
    """(B, 3) standard normal: normalised colours of the erased rectangles."""
    grey_rectangles: Tensor | None
    """(B, 4) int64, as `rectangles`: what loses its colour."""
    policy: Tensor | None
    """(B, 2, 2), the operations of AutoAugment: see `sample_policy`."""

    @property
    def leave_colours(self) -> bool:
        """Whether pixels only move, and keep their values, before they are erased."""
        return all(
            numbers is None for numbers in (self.brightness, self.contrast, self.saturation, self.hue, self.angles)
        )

    def part(self, where: slice) -> Self:
        """The parameters of some of the images."""
        return self._make(None if numbers is None else numbers[where] for numbers in self)


def sample(
    options: DataAugmentation,
    batch: int,
    full_height: int,
    full_width: int,
    height: int,
    width: int,
    generator: torch.Generator,
) -> AugmentParams:
    """Sample the parameters of a whole batch.

    Processes that share a batch sample for all of it, with the same seed, and take their `part`: together they see what
    a single process would see.

    Args:
        batch: number of images.
        full_height, full_width: size of the images, pixels; with the padding at least height x width.
        height, width: size of the crops.
        generator: source of the numbers, which lie on its device.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device)

    def places(full: int, part: int, pad: int) -> Tensor:
        number = full + 2 * pad - part + 1
        return torch.randint(number, (batch,), generator=generator, device=generator.device) - pad

    def around(centre: float, spread: float) -> Tensor | None:
        return centre + spread * (2 * uniform(batch) - 1) if spread else None

    erasing = options.random_erasing
    params = AugmentParams(
        tops=places(full_height, height, options.pads[0]),
        lefts=places(full_width, width, options.pads[1]),
        mirrored=uniform(batch) < 0.5 if options.mirror else None,
        brightness=around(1.0, options.brightness),
        contrast=around(1.0, options.contrast),
        saturation=around(1.0, options.saturation),
        hue=around(0.0, options.hue),
        angles=around(0.0, math.radians(options.rotation)),
        rectangles=sample_rectangles(batch, height, width, erasing, generator) if erasing.probability else None,
        fill_colours=normal(batch, 3) if erasing.probability and erasing.fill == "colour" else None,
        grey_rectangles=_sample_grey(batch, height, width, options, generator),
        policy=_sample_policy(batch, options.auto_augment.probability, generator),
    )
    if options.jitters_colours and options.jitter_probability < 1:
        return _leave_some_colours(params, uniform(batch) >= options.jitter_probability)
    return params


def sample_rectangles(
    batch: int, height: int, width: int, options: RandomRectangle, generator: torch.Generator
) -> Tensor:
    """Rectangles of random erasing: (B, 4) int64, top, left, height and width of one per image; height 0 = none.

    As in the paper an image tries rectangles (area uniform, aspect uniform between min_aspect and its inverse) until
    one is smaller than the image; here all attempts are drawn at once and the first that fits is taken.

    Source: Zhong et al. 2017, arXiv 1708.04896, algorithm 1.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

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
    return torch.cat((tops, lefts, heights * hit, widths), dim=1).long()


def _sample_grey(
    batch: int, height: int, width: int, options: DataAugmentation, generator: torch.Generator
) -> Tensor | None:
    """Rectangles that lose their colour (B, 4), some of them the whole image; None where both options are off."""
    patch, rectangles = options.grayscale_patch, None
    if patch.probability:
        rectangles = sample_rectangles(batch, height, width, patch, generator)
    if options.grayscale:
        grey = torch.rand((batch, 1), generator=generator, device=generator.device) < options.grayscale
        other = torch.zeros((batch, 4), dtype=torch.int64) if rectangles is None else rectangles
        rectangles = torch.where(grey, torch.tensor((0, 0, height, width)), other)
    return rectangles


def _sample_policy(batch: int, probability: float, generator: torch.Generator) -> Tensor | None:
    if not probability:
        return None
    # Not imported for trainings without it.
    from data.augmentation.auto_augment import sample_policy

    return sample_policy(batch, probability, generator)


def _leave_some_colours(params: AugmentParams, left: Tensor) -> AugmentParams:
    """The params with numbers that change no colour for the images (B,) that are `left` alone."""

    def unless_left(numbers: Tensor | None, unchanged: float) -> Tensor | None:
        return None if numbers is None else torch.where(left, unchanged, numbers)

    return params._replace(
        brightness=unless_left(params.brightness, 1.0),
        contrast=unless_left(params.contrast, 1.0),
        saturation=unless_left(params.saturation, 1.0),
        hue=unless_left(params.hue, 0.0),
    )
