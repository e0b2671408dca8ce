"""Crop, mirror, rotation and erasing: functions of images and numbers per image."""

import torch
from torch import Tensor
from torch.nn import functional as F

from data.augmentation.normalisation import as_images, as_rows
from utils.device import to_device


def crop_and_mirror(
    images: Tensor, tops: Tensor, lefts: Tensor, mirrored: Tensor | None, pads: tuple[int, int], height: int, width: int
) -> Tensor:
    """Crop height x width from each image and mirror some of the crops; pixels outside an image are zero.

    In channels-last a row of a crop is contiguous in the padded image or, mirrored, in the flipped one. So one gather
    copies whole rows, as fast as memory allows; a gather of pixels takes forty times as long on a CPU.

    Args:
        images: (B, 3, H, W) of any type and layout.
        tops, lefts: (B,) int64, first row and column of each crop, which lies in the padded image; on the CPU or where
            the images are.
        mirrored: (B,) bool, or None for none.
        pads: rows above and below, and columns left and right, by which crops may extend beyond the image.
        height, width: size of the crops, pixels.

    Returns:
        (B, 3, height, width), channels-last.
    """
    batch, _, full_height, full_width = images.shape
    sides = [images] if mirrored is None else [images, images.flip(3)]
    above, left = pads
    padded_height, padded_width = full_height + 2 * above, full_width + 2 * left
    padded = images.new_zeros((batch, len(sides), padded_height, padded_width, 3))
    for side, source in enumerate(sides):
        padded[:, side, above : above + full_height, left : left + full_width] = source.permute(0, 2, 3, 1)
    pictures = torch.arange(0, batch * len(sides), len(sides), device=tops.device)
    if mirrored is not None:
        pictures = pictures + mirrored
        lefts = torch.where(mirrored, full_width - width - lefts, lefts)
    # The pixel at which each crop begins, and those at which its rows begin.
    starts = (pictures * padded_height + tops + above) * padded_width + lefts + left
    further = torch.arange(0, height * padded_width, padded_width, device=images.device)
    rows = to_device(starts, images.device)[:, None] + further
    # Window i begins at pixel i and has the length of a row of a crop; windows overlap, as views.
    windows = padded.flatten().unfold(0, 3 * width, 3)
    crops = windows.index_select(0, rows.flatten())
    return as_images(crops.view(batch, height, 3 * width))


def rotate(pixels: Tensor, angles: Tensor) -> Tensor:
    """Rotate each image (B, 3, H, W) about its centre by its angle (B,) in radians, bilinearly; corners become 0."""
    height, width = pixels.shape[2:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # The sampling grid spans -1..1 on both axes whatever the shape; the ratios keep the rotation a rotation.
    matrices = torch.stack((cos, -sin * height / width, zero, sin * width / height, cos, zero), dim=1).view(-1, 2, 3)
    return _warp(pixels, matrices)


def shear(pixels: Tensor, shears: Tensor) -> Tensor:
    """Shift each row of an image (B, 3, H, W) by its shear (B,) times the distance from the top; uncovered: 0."""
    height, width = pixels.shape[2:]
    shift, zero, one = shears * height / width, torch.zeros_like(shears), torch.ones_like(shears)
    return _warp(pixels, torch.stack((one, shift, shift, zero, one, zero), dim=1).view(-1, 2, 3))


def _warp(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Sample images bilinearly where their affine matrix (B, 2, 3) says, for coordinates -1..1; 0 outside."""
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def erase_(pixels: Tensor, rectangles: Tensor, fill: Tensor | None) -> None:
    """Replace a rectangle of each image, in place.

    Args:
        pixels: (B, 3, H, W) of any type, channels-last.
        rectangles: (B, 4) int64 on the CPU: top, left, height and width; height 0 = nothing is erased.
        fill: (B, 3, H, W), the replacement; None for zero.
    """
    erase = erase_one_by_one if pixels.device.type == "cpu" else erase_all_at_once
    erase(pixels, rectangles, fill)


def erase_all_at_once(pixels: Tensor, rectangles: Tensor, fill: Tensor | None) -> None:
    """`erase_` with a mask over all pixels: the fewest kernels, without synchronising with the GPU."""
    height, width = pixels.shape[2:]
    tops, lefts, heights, widths = rectangles[:, :, None].unbind(1)
    rows, columns = torch.arange(height), torch.arange(width).repeat_interleave(3)
    # Made on the CPU in less time than a GPU takes to start as many kernels.
    of_rows, of_columns = (rows >= tops) & (rows < tops + heights), (columns >= lefts) & (columns < lefts + widths)
    of_rows, of_columns = to_device(torch.cat((of_rows, of_columns), 1), pixels.device).split((height, 3 * width), 1)
    erased = of_rows[:, :, None] & of_columns[:, None]
    if fill is None:
        as_rows(pixels).masked_fill_(erased, 0.0)
    else:
        pixels.copy_(torch.where(as_images(erased), fill, pixels))


def erase_one_by_one(pixels: Tensor, rectangles: Tensor, fill: Tensor | None) -> None:
    """`erase_` on a CPU, where memory is the bottleneck: only erased pixels are written."""
    for place, (top, left, height, width) in enumerate(rectangles.tolist()):
        where = (place, slice(None), slice(top, top + height), slice(left, left + width))
        pixels[where] = 0.0 if fill is None else fill[where]
