"""Training batches on the device, read ahead in threads while the device computes."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor

from data.augmentation.params import AugmentParams
from data.cache import ImageStore
from data.read_ahead import read_ahead


class Batch(NamedTuple):
    """Images and labels, on the device, and what was drawn for them."""

    images: Tensor
    """(B, 3, H, W) uint8, channels last."""
    labels: Tensor
    """(B,) int64."""
    params: AugmentParams | None = None


def load_batches(
    store: ImageStore,
    labels: Tensor,
    batches: Iterable[Sequence[int]],
    device: torch.device,
    draw: Callable[[int], AugmentParams] | None = None,
) -> Generator[Batch, None, None]:
    """The images and labels of each batch, in order.

    Does not synchronise with the device: copies are queued on its current stream.

    Args:
        store: serves the images; one that keeps them on a device keeps them on this one.
        labels: of all its images (N,) int64, on the CPU.
        batches: the indices of the images of each batch.
        device: of the batches.
        draw: the position of a batch -> random numbers for it; called in the threads. None: there are none.

    Raises:
        DataError: an image is unreadable; raised when its batch is due.
    """
    pinned = device.type == "cuda"

    def fetch(task: tuple[int, Sequence[int]]) -> tuple[Tensor, Tensor, AugmentParams | None]:
        position, batch = task
        chosen = labels[torch.tensor(batch, dtype=torch.int64)]
        params = None if draw is None else draw(position)
        return store.fetch(batch, pinned=pinned), chosen.pin_memory() if pinned else chosen, params

    # Closed with this generator, or its threads would read on until the garbage collector finds it.
    with closing(read_ahead(fetch, enumerate(batches))) as loaded:
        for fetched, chosen, params in loaded:
            # The page-locked memory may be released here: torch does not reuse it before the copies are done.
            images = store.serve(fetched.to(device, non_blocking=True))
            yield Batch(images, chosen.to(device, non_blocking=True), params)
