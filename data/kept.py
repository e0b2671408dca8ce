"""Decoded images kept from one pass over the same files to the next."""

import logging
from pathlib import Path
from threading import Lock

import numpy as np

from data.images import decode
from data.store.build import DataCache
from utils.distributed import this_process
from utils.free_memory import free_memory

logger = logging.getLogger(__name__)


class KeptImages:
    """Decodes images and keeps as many as fit; for any number of threads.

    What does not fit is decoded again at every pass. Nothing is dropped for it: passes meet the files in the same
    order, so the one used longest ago would be the next one wanted.

    Args:
        budget: bytes of pixels to keep at most.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._images: dict[tuple[Path, int, int], np.ndarray] = {}
        self._lock = Lock()

    def read(self, path: Path, height: int, width: int) -> np.ndarray:
        """One image (H, W, 3) uint8, not to be written to; as `decode` gave it when it was first read.

        Raises:
            DataError: it is not kept and its file cannot be read.
        """
        key = (path, height, width)
        with self._lock:
            kept = self._images.get(key)
        if kept is not None:
            return kept
        image = decode(path, height, width)
        with self._lock:
            # Another thread may have been as fast.
            if key not in self._images and self.used + image.nbytes <= self.budget:
                self._images[key] = image
                self.used += image.nbytes
        return image


def build_kept_images(data_cache: DataCache) -> KeptImages | None:
    """Room for what one process evaluates again and again; None where nothing is to be kept in memory.

    A quarter of the free memory is shared out among the processes of the machine, of which each reads its own images.
    Where the system does not tell what is free, nothing is kept.
    """
    free = free_memory()
    if data_cache == "none" or free is None:
        return None
    return KeptImages(free // 4 // this_process().local_world_size)
