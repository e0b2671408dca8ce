"""Where the pixels of an image come from: its file, memory, or the device."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.images import decode


class ImageStore(Protocol):
    """Serves images of one size by their index, in two parts so that threads can do the first ahead of time."""

    def fetch(self, indices: Sequence[int], *, pinned: bool = False) -> Tensor:
        """What has to travel to the device for B images; on the CPU, in page-locked memory if `pinned`."""
        ...

    def serve(self, fetched: Tensor) -> Tensor:
        """What was fetched, on the device by now -> (B, 3, H, W) uint8 there, channels last."""
        ...

    def read(self, indices: Sequence[int]) -> Tensor:
        """Indices of B images -> (B, 3, H, W) uint8, channels last; on the CPU, or on the device they are kept on."""
        ...


class _PixelStore(ABC):
    """A store whose pixels travel."""

    @abstractmethod
    def fetch(self, indices: Sequence[int], *, pinned: bool = False) -> Tensor:
        """Indices of B images -> their pixels (B, H, W, 3) uint8 on the CPU."""

    def serve(self, fetched: Tensor) -> Tensor:
        """(B, H, W, 3) -> (B, 3, H, W), without touching a pixel."""
        return fetched.permute(0, 3, 1, 2)

    def read(self, indices: Sequence[int]) -> Tensor:
        """Indices of B images -> (B, 3, H, W) uint8 on the CPU."""
        return self.serve(self.fetch(indices))


class FileStore(_PixelStore):
    """Decodes each image anew whenever it is asked for: no memory, all the work."""

    def __init__(self, paths: Sequence[Path], height: int, width: int) -> None:
        self.paths = list(paths)
        self.height = height
        self.width = width

    def fetch(self, indices: Sequence[int], *, pinned: bool = False) -> Tensor:
        """Indices of B images -> their pixels (B, H, W, 3) uint8 on the CPU."""
        images = (decode(self.paths[index], self.height, self.width) for index in indices)
        return stack_images(images, len(indices), self.height, self.width, pinned=pinned)


class RamStore(_PixelStore):
    """Copies images out of memory, in which they lie decoded: 3 * H * W bytes each.

    Args:
        images: (N, H, W, 3) uint8 on the CPU, rows of pixels as the decoder writes them.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def fetch(self, indices: Sequence[int], *, pinned: bool = False) -> Tensor:
        """Indices of B images -> their pixels (B, H, W, 3) uint8 on the CPU."""
        pixels = self.images.numpy()
        return stack_images((pixels[index] for index in indices), len(indices), *pixels.shape[1:3], pinned=pinned)


class DeviceStore:
    """Gathers images on the device on which they lie decoded; only their indices travel.

    Args:
        images: (N, H, W, 3) uint8 on the device.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def fetch(self, indices: Sequence[int], *, pinned: bool = False) -> Tensor:
        """Indices of B images -> the same as a tensor (B,) int64 on the CPU."""
        fetched = torch.tensor(indices, dtype=torch.int64)
        return fetched.pin_memory() if pinned else fetched

    def serve(self, fetched: Tensor) -> Tensor:
        """Indices (B,) on the device -> (B, 3, H, W) uint8 there."""
        return self.images.index_select(0, fetched).permute(0, 3, 1, 2)

    def read(self, indices: Sequence[int]) -> Tensor:
        """Indices of B images -> (B, 3, H, W) uint8 on the store's device."""
        return self.serve(self.fetch(indices).to(self.images.device))


def stack_images(images: Iterable[np.ndarray], number: int, height: int, width: int, *, pinned: bool = False) -> Tensor:
    """So many arrays (H, W, 3) -> (B, H, W, 3) uint8 on the CPU, in page-locked memory if `pinned`.

    Image by image, by the calling thread alone: torch would start further threads in each one that reads ahead.
    """
    stacked = torch.empty((number, height, width, 3), dtype=torch.uint8, pin_memory=pinned)
    for row, image in zip(stacked.numpy(), images, strict=True):
        row[...] = image
    return stacked
