"""Images by index, as uint8 batches: decoded when asked for, or once and kept."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from data.images import decode
from utils.cpus import num_cpus
from utils.errors import DataError

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")


class ImageStore(Protocol):
    """Serves images of one size by their index."""

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """Indices of B images -> (B, 3, H, W) uint8 on the CPU."""
        ...


class FileStore:
    """Decodes each image anew whenever it is asked for: no memory, all the work."""

    def __init__(self, paths: Sequence[Path], height: int, width: int) -> None:
        self.paths = list(paths)
        self.height = height
        self.width = width

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """Indices of B images -> (B, 3, H, W) uint8 on the CPU."""
        return _stack([decode(self.paths[index], self.height, self.width) for index in indices])


class MemoryStore:
    """Decodes every image once and keeps it: 3 * H * W bytes each."""

    def __init__(self, paths: Sequence[Path], height: int, width: int) -> None:
        # Rows of pixels as the decoder writes them; the channel order changes in one pass per batch, when read.
        self.images = torch.empty((len(paths), height, width, 3), dtype=torch.uint8)
        pixels = self.images.numpy()

        def fill(index: int) -> None:
            pixels[index] = decode(paths[index], height, width)

        with ThreadPoolExecutor(num_cpus()) as pool:
            done = pool.map(fill, range(len(paths)))
            for _ in tqdm(done, "decoding images", len(paths), unit="img", leave=False, disable=None):
                pass

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """Indices of B images -> (B, 3, H, W) uint8 on the CPU."""
        return self.images[torch.as_tensor(indices)].permute(0, 3, 1, 2)


def build_store(
    paths: Sequence[Path], height: int, width: int, data_cache: Literal["auto", "ram", "none"]
) -> ImageStore:
    """The store that `data_cache` asks for; "auto" keeps the images if they fit a quarter of the free memory."""
    size = len(paths) * height * width * 3
    mebibytes = size / 2**20
    if data_cache == "ram" or (data_cache == "auto" and size <= _free_memory() // 4):
        logger.info("%d training images are kept decoded in memory, %.0f MiB", len(paths), mebibytes)
        return MemoryStore(paths, height, width)
    logger.info("training images are decoded anew each time; in memory they would take %.0f MiB", mebibytes)
    return FileStore(paths, height, width)


def read_ahead(task: Callable[[Task], Result], tasks: Iterable[Task], depth: int = 4) -> Iterator[Result]:
    """Like map(task, tasks), but up to `depth` tasks are under way in threads while the caller uses a result."""
    with ThreadPoolExecutor(min(depth, num_cpus())) as pool:
        pending: deque[Future[Result]] = deque()
        for argument in tasks:
            pending.append(pool.submit(task, argument))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def stream_images(
    paths: Sequence[Path], height: int, width: int, batch_size: int, bad_images: Literal["error", "skip"] = "error"
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """All images in order, in batches, decoded ahead in threads.

    Yields:
        Positions in `paths` of the B images read, and the images (B, 3, H, W) uint8. With "skip" an unreadable
        image is left out, so a batch may be smaller; a batch in which none is readable is not yielded.

    Raises:
        DataError: an image is unreadable and `bad_images` is "error".
    """

    def read(positions: Sequence[int]) -> tuple[list[int], list[np.ndarray]]:
        kept, images = [], []
        for position in positions:
            try:
                images.append(decode(paths[position], height, width))
            except DataError:
                if bad_images == "error":
                    raise
                continue
            kept.append(position)
        return kept, images

    batches = (range(first, min(first + batch_size, len(paths))) for first in range(0, len(paths), batch_size))
    for kept, images in read_ahead(read, batches):
        if kept:
            yield kept, _stack(images)


def _stack(images: Sequence[np.ndarray]) -> torch.Tensor:
    """B arrays (H, W, 3) -> (B, 3, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _free_memory() -> int:
    """Bytes of memory that can be taken without swapping; 0 where the system does not tell."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 0
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024
