"""Boxes of persons: arrays (..., 4) of x, y, width and height in pixels."""

import numpy as np


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of each of (N, 4) boxes with each of (M, 4): (N, M), 0 to 1."""
    first, second = first[:, None], second[None]
    start = np.maximum(first[..., :2], second[..., :2])
    end = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    shared = np.maximum(end - start, 0.0).prod(axis=-1)
    union = first[..., 2:].prod(axis=-1) + second[..., 2:].prod(axis=-1) - shared
    return shared / np.maximum(union, np.finfo(float).tiny)


def crop(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The part of an image that a box holds: of (H, W, 3) and a (4,) box a view (h, w, 3).

    What of the box lies outside of the image is left out.

    Raises:
        ValueError: nothing of the box lies inside.
    """
    x, y, width, height = (float(value) for value in box)
    left, right = max(0, round(x)), min(image.shape[1], round(x + width))
    top, bottom = max(0, round(y)), min(image.shape[0], round(y + height))
    if left >= right or top >= bottom:
        size = f"{image.shape[1]} x {image.shape[0]}"
        raise ValueError(f"crop: box ({x:g}, {y:g}, {width:g}, {height:g}) lies outside of the image of {size} pixels")
    return image[top:bottom, left:right]
