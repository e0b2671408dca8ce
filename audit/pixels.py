"""What the pixels of images say without a network: copies, blank and small crops, colours."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.images import decode
from utils.logs import bars_hidden
from utils.process import num_own_cpus

THUMBNAIL = (16, 32)
"""Width and height."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in the brightness (ITU-R BT.601)."""


class Pixels(NamedTuple):
    """Of N images."""

    digests: list[bytes]
    """Equal where the decoded pixels are."""
    sizes: np.ndarray
    """(N, 2) int64, height and width."""
    colours: np.ndarray
    """(N, 3) float32, mean red, green and blue, 0..255."""
    contrasts: np.ndarray
    """(N,) float32, standard deviation of the brightness, 0..255."""
    thumbnails: np.ndarray
    """(N, 32, 16, 3) uint8."""


def read_pixels(paths: Sequence[Path]) -> Pixels:
    """Decode every image once, in threads.

    Raises:
        DataError: an image cannot be read.
    """
    with ThreadPoolExecutor(num_own_cpus()) as pool:
        bar = tqdm(pool.map(_measure, paths), "pixels", len(paths), unit="img", leave=False, disable=bars_hidden())
        digests, sizes, colours, contrasts, thumbnails = zip(*bar, strict=True)
    return Pixels(list(digests), np.array(sizes), np.array(colours), np.array(contrasts), np.stack(thumbnails))


def _measure(path: Path) -> tuple[bytes, tuple[int, int], np.ndarray, float, np.ndarray]:
    """Digest, size, mean colour, contrast and thumbnail of an image."""
    image = decode(path)
    height, width = image.shape[:2]
    digest = hashlib.blake2b(f"{height} {width}".encode() + image.tobytes(), digest_size=16).digest()
    thumbnail = np.asarray(Image.fromarray(image).resize(THUMBNAIL, Image.Resampling.BOX))
    brightness = image.astype(np.float32) @ LUMA
    return digest, (height, width), image.mean(axis=(0, 1), dtype=np.float32), float(brightness.std()), thumbnail
