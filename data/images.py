"""From an image file to pixels, and the search for files that have none."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from utils.cpus import num_cpus
from utils.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


class BadImage(NamedTuple):
    """A file that cannot be read as an image, and why."""

    path: Path
    reason: str


def decode(path: Path, height: int = 0, width: int = 0) -> np.ndarray:
    """Read one image file as RGB, resized bilinearly (with antialiasing) where its size differs.

    Args:
        path: the file; any mode Pillow reads is converted to RGB.
        height, width: size wanted, pixels; 0 keeps the file's own.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: the file is missing, truncated, damaged, or no image.
    """
    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
            if height and width and image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(image)
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image that can be read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {error}") from error


def find_bad_images(paths: Sequence[Path], description: str = "checking images") -> list[BadImage]:
    """Decode every file once, in threads, and list those that fail, in the order given."""

    def check(path: Path) -> BadImage | None:
        try:
            decode(path)
        except DataError as error:
            return BadImage(path, str(error).removeprefix(f"{path}: "))
        return None

    with ThreadPoolExecutor(num_cpus()) as pool:
        results = tqdm(pool.map(check, paths), description, len(paths), unit="img", leave=False, disable=None)
        return [bad for bad in results if bad is not None]
