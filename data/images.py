"""From an image file to pixels, and the search for files that have none."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from data.lmdb_reading import has_image, read_image, split_path
from utils.cpus import num_own_cpus
from utils.errors import DataError
from utils.logs import bars_hidden

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


class BadImage(NamedTuple):
    """A file that cannot be read as an image, and why."""

    path: Path
    reason: str


def read_bytes(path: Path) -> bytes:
    """What an image file holds; it may be one in an LMDB, X.lmdb/its/path.jpg.

    Raises:
        DataError: the LMDB or the image's record in it is damaged, or it has no such image.
        OSError: a file of the file system cannot be read.
    """
    packed = split_path(path)
    return path.read_bytes() if packed is None else read_image(*packed)


def image_exists(path: Path) -> bool:
    """Whether there is such an image file, on the disk or in an LMDB that can be read."""
    packed = split_path(path)
    if packed is None:
        return path.is_file()
    try:
        return has_image(*packed)
    except DataError:
        return False


def decode(path: Path, height: int = 0, width: int = 0) -> np.ndarray:
    """Read one image file as RGB, resized bilinearly (with antialiasing) where its size differs.

    Args:
        path: the file, which `read_bytes` reads; any mode Pillow reads is converted to RGB.
        height, width: size wanted, pixels; 0 keeps the file's own.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: the file is missing, truncated, damaged, or no image.
    """
    try:
        with Image.open(io.BytesIO(read_bytes(path))) as image:
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

    with ThreadPoolExecutor(num_own_cpus()) as pool:
        results = tqdm(pool.map(check, paths), description, len(paths), unit="img", leave=False, disable=bars_hidden())
        return [bad for bad in results if bad is not None]
