"""Crop, mirror, rotation and erasing: functions of images and numbers per image."""

import torch
from torch import Tensor
from torch.nn import functional as F

from data.augmentation.normalisation import as_images, as_rows


def crop_and_mirror(
    images: Tensor, tops: Tensor, lefts: Tensor, mirrored: Tensor | None, pad: int, height: int, width: int
) -> Tensor:
    """Crop height x width from each image and mirror some of the crops; pixels outside an image are zero.

    In channels-last a row of a crop is contiguous in the padded image or, mirrored, in the flipped one. So one gather
    copies whole rows, as fast as memory allows; a gather of pixels takes forty times as long on a CPU.

    Args:
        images: (B, 3, H, W) of any type and layout.
        tops, lefts: (B,) int64, first row and column of each crop, in -pad..H + pad - height, -pad..W + pad - width.
        mirrored: (B,) bool, or None for none.
        pad: pixels by which crops may extend beyond the image, at least 0.
        height, width: size of the crops, pixels.

    Returns:
        (B, 3, height, width), channels-last.
    """
    batch, _, full_height, full_width = images.shape
    sides = [images] if mirrored is None else [images, images.flip(3)]
    padded_height, padded_width = full_height + 2 * pad, full_width + 2 * pad
    padded = images.new_zeros((batch, len(sides), padded_height, padded_width, 3))
    for side, source in enumerate(sides):
        padded[:, side, pad : pad + full_height, pad : pad + full_width] = source.permute(0, 2, 3, 1)
    pictures = torch.arange(0, batch * len(sides), len(sides), device=images.device)
    if mirrored is not None:
        pictures = pictures + mirrored
        lefts = torch.where(mirrored, full_width - width - lefts, lefts)
    rows = (pictures * padded_height + tops + pad)[:, None] + torch.arange(height, device=images.device)
    # Window i begins at pixel i and has the length of a row of a crop; windows overlap, as views.
    windows = padded.flatten().unfold(0, 3 * width, 3)
    crops = windows.index_select(0, (rows * padded_width + (lefts + pad)[:, None]).flatten())
    return as_images(crops.view(batch, height, 3 * width))


def rotate(pixels: Tensor, angles: Tensor) -> Tensor:
    """Rotate each image (B, 3, H, W) about its centre by its angle (B,) in radians, bilinearly; corners become 0."""
    height, width = pixels.shape[2:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # The sampling grid spans -1..1 on both axes whatever the shape; the ratios keep the rotation a rotation.
    matrices = torch.stack((cos, -sin * height / width, zero, sin * width / height, cos, zero), dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def erase_(pixels: Tensor, rectangles: Tensor, fill: Tensor | None) -> None:
    """Replace a rectangle of each image, in place.

    Args:
        pixels: (B, 3, H, W) floating point, channels-last.
        rectangles: (B, 4) int64: top, left, height and width; height 0 = nothing is erased.
        fill: (B, 3, H, W), the replacement; None for zero.
    """
    erase = erase_one_by_one if pixels.device.type == "cpu" else erase_all_at_once
    erase(pixels, rectangles, fill)


def erase_all_at_once(pixels: Tensor, rectangles: Tensor, fill: Tensor | None) -> None:
    """`erase_` with a mask over all pixels: the fewest kernels, without synchronising with the GPU."""
    height, width = pixels.shape[2:]
    tops, lefts, heights, widths = rectangles[:, :, None].unbind(1)
    rows = torch.arange(height, device=pixels.device)
    columns = torch.arange(width, device=pixels.device).repeat_interleave(3)
    above_or_below = ((rows < tops) | (rows >= tops + heights)).to(pixels.dtype)
    beside = ((columns < lefts) | (columns >= lefts + widths)).to(pixels.dtype)
    # 0 within the rectangle and 1 outside.
    kept = torch.maximum(above_or_below[:, :, None], beside[:, None, :])
    if fill is None:
        as_rows(pixels).mul_(kept)
    else:
        pixels.copy_(torch.where(as_images(kept).bool(), pixels, fill))


def erase_one_by_one(pixels: Tensor, rectangles: Tensor, fill: Tensor | None) -> None:
    """`erase_` on a CPU, where memory is the bottleneck: only erased pixels are written."""
    for place, (top, left, height, width) in enumerate(rectangles.tolist()):
        where = (place, slice(None), slice(top, top + height), slice(left, left + width))
        pixels[where] = 0.0 if fill is None else fill[where]
