"""Image files as pictures of the page: small embedded JPEGs."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from data.features import Features
from data.images import decode, image_exists
from data.samples import DISTRACTOR_PID, JUNK_PID
from evaluate.core.report.blocks import Shown, Verdict
from utils.errors import DataError

MAX_HEIGHT = 128
MAX_WIDTH = 256
QUALITY = 80
WORDS: dict[Verdict, str] = {"right": ", true match", "wrong": ", wrong", "ignored": ", ignored"}


def why_no_pictures(*parts: Features) -> str:
    """A sentence that says why these images cannot be shown; "" if they can."""
    if not all(part.samples for part in parts):
        return "The pictures are missing here: the embeddings come from a file that does not name its images."
    for part in parts:
        path = part.samples[0].path
        if not image_exists(path):
            return f"The pictures are missing here: the image files are no longer where they were, such as {path}."
    return ""


class Crops:
    """Shows images of one side, query or gallery; each file is read once.

    Args:
        features: the images; `samples` must be known.
    """

    def __init__(self, features: Features) -> None:
        self._features = features
        self._pictures: dict[int, Shown] = {}

    def show(self, row: int, verdict: Verdict, distance: float | None = None, above: str = "") -> Shown:
        """An image with its frame; its tooltip says all that is known about it."""
        hint = describe(self._features, row)
        below = ""
        if distance is not None:
            hint, below = f"{hint}, distance {distance:.4g}", number(distance)
        hint += WORDS.get(verdict, "")
        if row not in self._pictures:
            self._pictures[row] = picture(self._features.samples[row].path)
        shown = self._pictures[row]
        return replace(shown, hint=hint + shown.hint, verdict=verdict, above=above, below=below)


def picture(path: Path) -> Shown:
    """An image file without a frame; one that cannot be read is an empty frame, and its tooltip says why."""
    try:
        return Shown(*as_source(decode(path)), "")
    except DataError as error:
        return Shown("", MAX_HEIGHT // 2, MAX_HEIGHT, f" ({error})")


def as_source(image: np.ndarray) -> tuple[str, int, int]:
    """Pixels (H, W, 3) uint8 -> a data: URI of a JPEG that is small enough for the page, its width and its height."""
    height, width = image.shape[:2]
    scale = min(1.0, MAX_HEIGHT / height, MAX_WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    crop = Image.fromarray(image)
    if crop.size != size:
        crop = crop.resize(size, Image.Resampling.LANCZOS)
    content = io.BytesIO()
    crop.save(content, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}", *size


def describe(features: Features, row: int) -> str:
    """Path, person and camera of an image."""
    path: Path = features.samples[row].path
    return f"{path}, {person(int(features.pids[row]))}, camera {int(features.camids[row])}"


def person(pid: int) -> str:
    """A pid in words."""
    return {JUNK_PID: "junk", DISTRACTOR_PID: "distractor"}.get(pid, f"pid {pid}")


def number(distance: float) -> str:
    """A distance in few characters."""
    return f"{distance:.3f}" if distance < 10 else f"{distance:.1f}" if distance < 1000 else f"{distance:.3g}"
