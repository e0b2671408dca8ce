"""From an image file to pixels, and the search for files that have none."""

import io
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.decoding import decode_bytes, why_too_long
from data.lmdb.reading import has_image, read_image, split_path
from utils.cpus import num_own_cpus
from utils.errors import DataError
from utils.logs import bars_hidden

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


class BadImage(NamedTuple):
    """A file that cannot be read as an image, and why."""

    path: Path
    reason: str


def read_bytes(path: Path) -> bytes:
    """What an image file holds; it may be one in an LMDB, X.lmdb/its/path.jpg. Links are followed, wherever they lead.

    Raises:
        DataError: the file cannot be read, is no regular file or larger than MAX_BYTES, the LMDB or the image's record
            in it is damaged, or it has no such image.
    """
    try:
        packed = split_path(path)
        return _read_file(path) if packed is None else read_image(*packed)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a null character, or half of a surrogate pair
        raise DataError(f"{path}: cannot be the name of a file: {error}") from error


def image_exists(path: Path) -> bool:
    """Whether there is such an image file, on the disk or in an LMDB that can be read."""
    try:
        packed = split_path(path)
        return path.is_file() if packed is None else has_image(*packed)
    except (DataError, OSError, ValueError):
        return False


def decode(path: Path, height: int = 0, width: int = 0) -> np.ndarray:
    """Read one image file, which `read_bytes` reads; the rest is as of `decode_bytes`.

    Raises:
        DataError: the file cannot be read or decoded; nothing else, whatever it holds.
    """
    content = read_bytes(path)
    try:
        return decode_bytes(content, height, width)
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


def _read_file(path: Path) -> bytes:
    """All of a regular file; anything else is refused, without waiting for it."""
    with io.FileIO(path, opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: a pipe or a device, not a regular file")
        if problem := why_too_long(status.st_size):
            raise DataError(f"{path}: {problem}")
        # The files of /proc have no size, and some of them keep a reader waiting.
        return file.readall() if status.st_size else b""


def _open_at_once(path: str, flags: int) -> int:
    """Opens a pipe without waiting for somebody who writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)
