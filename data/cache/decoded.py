"""Decoded images kept from one evaluation to the next."""

from pathlib import Path
from threading import Lock

import numpy as np

from data.cache.build import DataCache
from data.decoding import Resize
from data.images import decode
from utils.distributed import this_process
from utils.memory import free_memory


class DecodedImageCache:
    """Decodes images and keeps as many as fit; safe to use from several threads.

    What does not fit is decoded at every pass. Nothing is evicted: every pass reads the files in the same order, so the
    least recently used image is the next one needed.

    Args:
        budget: maximum size of the kept pixels, bytes.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._images: dict[tuple[Path, Resize], np.ndarray] = {}
        self._lock = Lock()

    def read(self, path: Path, resize: Resize) -> np.ndarray:
        """One read-only image (H, W, 3) uint8, as `decode` returned it when it was first read.

        Raises:
            DataError: it is not in the cache and its file cannot be read.
        """
        key = (path, resize)
        cached = self._images.get(key)
        if cached is not None:
            return cached
        image = decode(path, resize)
        with self._lock:
            # Another thread may have added it in the meantime.
            if key not in self._images and self.used + image.nbytes <= self.budget:
                self._images[key] = image
                self.used += image.nbytes
        return image


def build_image_cache(data_cache: DataCache) -> DecodedImageCache | None:
    """The cache of one process for the images of repeated evaluations; None where nothing is to be kept in memory.

    The processes of a machine share a quarter of its free memory, since each reads images of its own. Where the free
    memory is unknown, nothing is kept.
    """
    free = free_memory()
    if data_cache == "none" or free is None:
        return None
    return DecodedImageCache(free // 4 // this_process().local_world_size)
