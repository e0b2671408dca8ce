"""What the pixels of images say without a network: copies, blank and small crops, colours."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data.images import decode
from utils.distributed import fail_together, gather_rows, this_process
from utils.logs import bars_hidden
from utils.process import num_own_cpus

THUMBNAIL = (16, 32)
"""Width and height."""
DIGEST_BYTES = 16
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in the brightness (ITU-R BT.601)."""


class Pixels(NamedTuple):
    """Of N images."""

    digests: np.ndarray
    """(N, 16) uint8, equal where the decoded pixels are."""
    sizes: np.ndarray
    """(N, 2) int64, height and width."""
    colours: np.ndarray
    """(N, 3) float32, mean red, green and blue, 0..255."""
    contrasts: np.ndarray
    """(N,) float32, standard deviation of the brightness, 0..255."""
    thumbnails: np.ndarray
    """(N, 32, 16, 3) uint8."""


def read_pixels(paths: Sequence[Path]) -> Pixels:
    """Decode every image once, in threads; the processes of a run share the work, and all must call this.

    Raises:
        DataError: an image cannot be read.
    """
    mine = paths[this_process().share(len(paths))]
    own = Pixels(
        np.empty((len(mine), DIGEST_BYTES), np.uint8),
        np.empty((len(mine), 2), np.int64),
        np.empty((len(mine), 3), np.float32),
        np.empty(len(mine), np.float32),
        np.empty((len(mine), THUMBNAIL[1], THUMBNAIL[0], 3), np.uint8),
    )
    with fail_together(), ThreadPoolExecutor(num_own_cpus()) as pool:
        bar = tqdm(pool.map(_measure, mine), "pixels", len(mine), unit="img", leave=False, disable=bars_hidden())
        for row, measured in enumerate(bar):
            for part, value in zip(own, measured, strict=True):
                part[row] = value
    return Pixels(*(gather_rows(torch.from_numpy(part)).numpy() for part in own))


def _measure(path: Path) -> tuple[np.ndarray, tuple[int, int], np.ndarray, float, np.ndarray]:
    """Digest, size, mean colour, contrast and thumbnail of an image."""
    image = decode(path)
    height, width = image.shape[:2]
    digest = hashlib.blake2b(f"{height} {width}".encode() + image.tobytes(), digest_size=DIGEST_BYTES).digest()
    thumbnail = np.asarray(Image.fromarray(image).resize(THUMBNAIL, Image.Resampling.BOX))
    brightness = image.astype(np.float32) @ LUMA
    return (
        np.frombuffer(digest, np.uint8),
        (height, width),
        image.mean(axis=(0, 1), dtype=np.float32),
        float(brightness.std()),
        thumbnail,
    )
