"""Augmentation that gradients pass through: what a discriminator sees, of real and of generated images alike.

A discriminator memorises a small training set. Augmented images do not repeat; and since the generated images are
augmented on their way to the discriminator, too, the generator does not learn the changes.

`draw_changes` samples the parameters, `change` applies them. Images are (B, 3, H, W) floating point in -1..1, zero
being mid-grey. Every change is affine in the images.

Source: Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training", arXiv 2006.10738.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from data.augmentation.geometry import crop_and_mirror

DifferentiableChange = Literal["colour", "translation", "cutout"]

SHIFT_DIVISOR = 8
"""Images are shifted by at most their height and width divided by this."""
CUT_DIVISOR = 2
"""The rectangle cut out has the image's height and width divided by this."""


class Changes(NamedTuple):
    """Parameters of B images, on the device of the images; None where the change is off."""

    colours: Tensor | None
    """(B, 3) float32: brightness offset, saturation factor and contrast factor."""
    shifts: Tensor | None
    """(B, 2) int64: pixels down and to the right, at most an eighth of the height and of the width, either way."""
    rectangles: Tensor | None
    """(B, 4) int64: top, left, height and width of the rectangle, which may extend beyond the image."""


def draw_changes(
    changes: Sequence[DifferentiableChange], batch: int, height: int, width: int, generator: torch.Generator
) -> Changes:
    """Sample for a whole batch; the order in which changes are named does not matter.

    Args:
        changes: which are on.
        batch: B, number of images.
        height, width: size of the images, pixels. Shifts are rounded down: an image smaller than 8 is not shifted.
        generator: source of the numbers, which lie on its device.
    """

    def uniform() -> Tensor:
        return torch.rand(batch, generator=generator, device=generator.device)

    def places(size: int) -> Tensor:
        cut = size // CUT_DIVISOR
        # The centre of an even number of pixels lies between two of them, so it has one more position.
        number = size + 1 - cut % 2
        return torch.randint(number, (batch,), generator=generator, device=generator.device) - cut // 2

    def shifts(size: int) -> Tensor:
        most = size // SHIFT_DIVISOR
        return torch.randint(-most, most + 1, (batch,), generator=generator, device=generator.device)

    colours = moves = rectangles = None
    if "colour" in changes:
        colours = torch.stack((uniform() - 0.5, 2 * uniform(), uniform() + 0.5), dim=1)
    if "translation" in changes:
        moves = torch.stack((shifts(height), shifts(width)), dim=1)
    if "cutout" in changes:
        tops, lefts = places(height), places(width)
        sizes = (torch.full_like(tops, size // CUT_DIVISOR) for size in (height, width))
        rectangles = torch.stack((tops, lefts, *sizes), dim=1)
    return Changes(colours, moves, rectangles)


def change(images: Tensor, changes: Changes) -> Tensor:
    """Change colours, then shift, then cut out a rectangle, each where it is on.

    Differentiable in the images any number of times, as a gradient penalty requires. Does not synchronise with the GPU.

    Args:
        images: (B, 3, H, W) floating point; nothing is clipped.
        changes: of these images, by `draw_changes` for their size.

    Returns:
        (B, 3, H, W) of the same dtype; with every change off, the images themselves.
    """
    if changes.colours is not None:
        images = change_colours(images, changes.colours)
    if changes.shifts is not None:
        images = _Shift.apply(images, changes.shifts)
    if changes.rectangles is not None:
        images = cut_out(images, changes.rectangles)
    return images


def change_colours(images: Tensor, colours: Tensor) -> Tensor:
    """Brightness, saturation around each pixel's mean and contrast around the image's: images and (B, 3) numbers.

    With b added, a factor s around the pixel's mean g and a factor c around the image's mean m, which the saturation
    leaves as it is, a pixel x becomes c * s * x + c * (1 - s) * g + (1 - c) * m + b: one pass instead of three.
    """
    brightness, saturation, contrast = colours.to(images.dtype)[..., None, None, None].unbind(1)
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    return torch.addcmul(
        contrast * (1 - saturation) * grey + ((1 - contrast) * mean + brightness), contrast * saturation, images
    )


def cut_out(images: Tensor, rectangles: Tensor) -> Tensor:
    """Set one rectangle of each image to zero; (B, 4) int64: top, left, height and width."""
    tops, lefts, heights, widths = rectangles[:, :, None].unbind(1)
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    in_rows = (rows >= tops) & (rows < tops + heights)
    in_columns = (columns >= lefts) & (columns < lefts + widths)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def shift(images: Tensor, shifts: Tensor) -> Tensor:
    """Move each image down and to the right by `Changes.shifts` (B, 2); uncovered pixels become zero."""
    height, width = images.shape[2:]
    downwards, rightwards = shifts.unbind(1)
    # The largest possible shift, known without reading the numbers from the device.
    pad = max(height, width) // SHIFT_DIVISOR
    return crop_and_mirror(images, -downwards, -rightwards, None, (pad, pad), height, width)


class _Shift(torch.autograd.Function):
    """`shift` for autograd.

    The gradient of a shift is the shift back, which copies whole rows; autograd would accumulate it pixel by pixel. The
    backward pass applies this function, so it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, shifts: Tensor) -> Tensor:
        ctx.save_for_backward(shifts)
        return shift(images, shifts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (shifts,) = ctx.saved_tensors
        return _Shift.apply(*gradients, -shifts), None
