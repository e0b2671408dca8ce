"""Crops that show nobody, as far as that can be said without a detector, and cameras with other colours."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from audit.labels import Near
from audit.pixels import LUMA, Pixels

LEAST_CONTRAST = 8.0
"""Standard deviation of the brightness; the weakest of 9,173 real crops has 19."""
LEAST_SIZE = (32, 16)
"""Height and width in pixels."""
FAR = 6.0
"""Robust standard deviations below the median similarity to the nearest images; of 9,173 real crops 1 lies there."""
NEAREST = 3
CAST = 15.0
"""Difference of the mean colour from that of the other cameras, brightness aside, 0..255."""
BRIGHTNESS = 50.0
GREY = 4.0
"""Colourfulness below which a camera has no colour."""


class PoorCrop(NamedTuple):
    """An image that may show nobody."""

    row: int
    kind: str
    """"blank", "small" or "far"."""
    text: str
    score: float


class Camera(NamedTuple):
    """The colours of a camera's training images."""

    camid: int
    num_images: int
    colour: tuple[float, float, float]
    """Mean red, green and blue, 0..255."""
    remark: str
    """What is odd; "" if nothing is."""


def find_poor_crops(pixels: Pixels, near: Near, num_train: int) -> list[PoorCrop]:
    """Blank, small and far-off images among the first `num_train`, each once."""
    similarity = near.similarities[:num_train, :NEAREST].mean(dim=1)
    distances = _deviations(similarity)
    found = []
    for row in range(num_train):
        height, width = pixels.sizes[row].tolist()
        contrast, distance = float(pixels.contrasts[row]), float(distances[row])
        if contrast < LEAST_CONTRAST:
            found.append(PoorCrop(row, "blank", f"contrast {contrast:.1f}", 1.0))
        elif height < LEAST_SIZE[0] or width < LEAST_SIZE[1]:
            found.append(PoorCrop(row, "small", f"{width} x {height} pixels", 1.0))
        elif distance > FAR:
            text = f"like no other image, cosine {float(similarity[row]):.2f}"
            found.append(PoorCrop(row, "far", text, 1 - 0.5 * (FAR / distance) ** 2))
    return found


def _deviations(values: Tensor) -> Tensor:
    """How many robust standard deviations each of (N,) lies below the median."""
    below = values.median() - values
    return below / (1.4826 * below.abs().median()).clamp(min=1e-6)


def compare_cameras(pixels: Pixels, camids: Tensor) -> list[Camera]:
    """The colours of each camera, beside the median of the other cameras.

    Args:
        pixels: of N images or more.
        camids: (N,) int64.
    """
    cameras = camids.unique().tolist()
    rows_of = [(camids == camid).nonzero().flatten().numpy() for camid in cameras]
    colours = np.stack([pixels.colours[rows].mean(axis=0) for rows in rows_of])
    spreads = np.array([np.ptp(pixels.colours[rows], axis=1).mean() for rows in rows_of])
    found = []
    for place, (camid, rows, colour) in enumerate(zip(cameras, rows_of, colours, strict=True)):
        others = np.arange(len(cameras)) != place
        remark = ""
        if others.any():
            usual, usual_spread = np.median(colours[others], axis=0), float(np.median(spreads[others]))
            remark = _remark(colour, usual, float(spreads[place]), usual_spread)
        found.append(Camera(camid, len(rows), tuple(colour.tolist()), remark))
    return found


def _remark(colour: np.ndarray, usual: np.ndarray, spread: float, usual_spread: float) -> str:
    """What is odd about a camera's colours.

    Args:
        colour, usual: (3,) mean colour of the camera, and the median of the others.
        spread, usual_spread: mean range of the channels of an image.
    """
    if spread < GREY <= usual_spread:
        return "no colour"
    shift = colour - usual
    lighter = float(shift @ LUMA)
    cast = shift - lighter
    if np.linalg.norm(cast) > CAST:
        channel = int(np.abs(cast).argmax())
        name = (("cyan", "red"), ("magenta", "green"), ("yellow", "blue"))[channel][int(cast[channel] > 0)]
        return f"{name} cast"
    if abs(lighter) > BRIGHTNESS:
        return "very bright" if lighter > 0 else "very dark"
    return ""
