"""Reads image files, from the disk or from an LMDB, and finds those that cannot be read."""

import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.decoding import Resize, decode_bytes
from data.lmdb.reading import has_image, read_image, split_path
from utils.errors import DataError
from utils.logs import bars_hidden
from utils.process import num_own_cpus

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
MAX_BYTES = 2**28
"""Of a file; 256 MiB hold any image that is decoded, even without compression."""


class BadImage(NamedTuple):
    """A file that cannot be read as an image, and why."""

    path: Path
    reason: str


def read_bytes(path: Path) -> bytes:
    """The content of an image file, which may lie in an LMDB: X.lmdb/its/path.jpg. Links are followed.

    Raises:
        DataError: the file cannot be read, is no regular file or larger than MAX_BYTES, the LMDB or the image's record
            in it is damaged, or it has no such image.
    """
    try:
        if (packed := split_path(path)) is not None:
            return read_image(*packed)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe could block for ever
            raise DataError(f"{path}: not a regular file")
        if status.st_size > MAX_BYTES:
            raise DataError(f"{path}: {status.st_size:,} bytes; files of at most {MAX_BYTES:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a null character, or an unpaired surrogate
        raise DataError(f"{path}: cannot be the name of a file: {error}") from error


def image_exists(path: Path) -> bool:
    """Whether there is such an image file, on the disk or in an LMDB that can be read."""
    try:
        packed = split_path(path)
        return path.is_file() if packed is None else has_image(*packed)
    except (DataError, OSError, ValueError):
        return False


def decode(path: Path, resize: Resize | None = None) -> np.ndarray:
    """Read an image file and decode it as `decode_bytes` does.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    content = read_bytes(path)
    try:
        return decode_bytes(content, resize)
    except DataError as error:
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
