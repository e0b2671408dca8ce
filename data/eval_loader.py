"""Batches of images for an evaluation: each image of a list once, in order."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from data.cache import DecodedImageCache, stack_images
from data.decoding import Resize
from data.images import decode
from data.read_ahead import read_ahead
from utils.errors import DataError


def eval_batches(
    paths: Sequence[Path],
    resize: Resize,
    batch_size: int,
    bad_images: Literal["error", "skip"] = "error",
    *,
    cache: DecodedImageCache | None = None,
    pinned: bool = False,
) -> Generator[tuple[list[int], Tensor], None, None]:
    """All images in order, in batches, decoded ahead in threads.

    Args:
        paths: the image files.
        resize: to what size.
        batch_size: images in a batch, fewer in the last.
        bad_images: what to do with an unreadable image.
        cache: serves and keeps decoded images; None decodes all of them.
        pinned: whether batches are allocated in page-locked memory.

    Yields:
        Positions in `paths` of the B images read, and the images (B, 3, H, W) uint8, channels last. With "skip" an
        unreadable image is left out, so a batch may be smaller; a batch without readable images is not yielded.

    Raises:
        DataError: an image is unreadable and `bad_images` is "error".
    """
    read_image = decode if cache is None else cache.read

    def read(positions: Sequence[int]) -> tuple[list[int], Tensor]:
        readable: list[int] = []
        images: list[np.ndarray] = []
        for position in positions:
            try:
                images.append(read_image(paths[position], resize))
            except DataError:
                if bad_images == "error":
                    raise
                continue
            readable.append(position)
        return readable, stack_images(images, len(images), *resize[:2], pinned=pinned).permute(0, 3, 1, 2)

    batches = (range(first, min(first + batch_size, len(paths))) for first in range(0, len(paths), batch_size))
    for readable, images in read_ahead(read, batches):
        if readable:
            yield readable, images
