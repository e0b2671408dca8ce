"""Sources of decoded images: files, memory, or the device."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.decoding import Resize
from data.images import decode


class ImageStore(ABC):
    """Serves images of one size by index, in two steps, so that threads can do the first one ahead of time."""

    device = torch.device("cpu")
    """Where the images are kept."""

    @abstractmethod
    def fetch(self, indices: Sequence[int], *, pinned: bool = False) -> Tensor:
        """What has to be copied to the device for B images; on the CPU, in page-locked memory if `pinned`."""

    def serve(self, fetched: Tensor) -> Tensor:
        """The fetched tensor, now on the device -> (B, 3, H, W) uint8 there, channels last."""
        return fetched.permute(0, 3, 1, 2)

    def read(self, indices: Sequence[int]) -> Tensor:
        """Indices of B images -> (B, 3, H, W) uint8, channels last, on the device of the store."""
        return self.serve(self.fetch(indices).to(self.device))


class FileStore(ImageStore):
    """Decodes an image whenever it is requested: no memory, all the work."""

    def __init__(self, paths: Sequence[Path], resize: Resize) -> None:
        self.paths = list(paths)
        self.resize = resize

    def fetch(self, indices: Sequence[int], *, pinned: bool = False) -> Tensor:
        """Indices of B images -> their pixels (B, H, W, 3) uint8 on the CPU."""
        images = (decode(self.paths[index], self.resize) for index in indices)
        return stack_images(images, len(indices), *self.resize[:2], pinned=pinned)


class RamStore(ImageStore):
    """Copies decoded images from memory: 3 * H * W bytes each.

    Args:
        images: (N, H, W, 3) uint8 on the CPU.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def fetch(self, indices: Sequence[int], *, pinned: bool = False) -> Tensor:
        """Indices of B images -> their pixels (B, H, W, 3) uint8 on the CPU."""
        pixels = self.images.numpy()
        return stack_images((pixels[index] for index in indices), len(indices), *pixels.shape[1:3], pinned=pinned)


class DeviceStore(ImageStore):
    """Gathers decoded images on the device that holds them; only their indices are copied there.

    Args:
        images: (N, H, W, 3) uint8 on the device.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.device = images.device

    def fetch(self, indices: Sequence[int], *, pinned: bool = False) -> Tensor:
        """Indices of B images -> the same as a tensor (B,) int64 on the CPU."""
        fetched = torch.tensor(indices, dtype=torch.int64)
        return fetched.pin_memory() if pinned else fetched

    def serve(self, fetched: Tensor) -> Tensor:
        """Indices (B,) on the device -> (B, 3, H, W) uint8 there."""
        return self.images.index_select(0, fetched).permute(0, 3, 1, 2)


def stack_images(images: Iterable[np.ndarray], number: int, height: int, width: int, *, pinned: bool = False) -> Tensor:
    """Arrays (H, W, 3) -> (B, H, W, 3) uint8 on the CPU, in page-locked memory if `pinned`.

    Copies image by image in the calling thread: torch would start further threads in every thread that reads ahead.
    """
    stacked = torch.empty((number, height, width, 3), dtype=torch.uint8, pin_memory=pinned)
    for row, image in zip(stacked.numpy(), images, strict=True):
        row[...] = image
    return stacked
