"""Decodes all images of a set into one tensor, on the CPU or on a device; the processes of a run share the work."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data.cache.shared import shared_bytes
from data.cache.stores import FileStore
from data.decoding import Resize
from data.read_ahead import read_ahead
from utils.distributed import Dist, fail_together, gather_objects, gather_rows, this_process
from utils.logs import bars_hidden

# Large enough to hide the overhead of a task, small enough for an even progress bar.
IMAGES_AT_A_TIME = 16


def images_in_ram(paths: Sequence[Path], resize: Resize) -> Tensor:
    """N files -> (N, H, W, 3) uint8 on the CPU; the processes of a machine decode a part each and share the result.

    Every process of the run must call this.

    Raises:
        NoRoomError: the memory cannot be shared; in every process.
        UserError: some process cannot read an image; in every process.
    """
    dist = this_process()
    shape = (len(paths), *resize[:2], 3)
    if max(gather_objects(dist.local_world_size)) == 1:
        images = torch.empty(shape, dtype=torch.uint8)
    else:
        images = torch.frombuffer(shared_bytes(torch.Size(shape).numel()), dtype=torch.uint8).view(shape)
    part = Dist(dist.local_rank, dist.local_world_size).share(len(paths))
    with fail_together():
        decode_into(images[part], paths[part], resize)
    return images


def images_on_device(paths: Sequence[Path], resize: Resize, device: torch.device) -> Tensor:
    """N files -> (N, H, W, 3) uint8 on the device; each process decodes a part and receives the others.

    Every process of the run must call this.

    Raises:
        UserError: some process cannot read an image; in every process.
    """
    part = this_process().share(len(paths))
    images = torch.empty((len(paths[part]), *resize[:2], 3), dtype=torch.uint8, device=device)
    with fail_together():
        decode_into(images, paths[part], resize)
    return gather_rows(images)


def decode_into(images: Tensor, paths: Sequence[Path], resize: Resize) -> None:
    """Decode N files in threads into `images` (N, H, W, 3) uint8 on any device, with a progress bar.

    Raises:
        DataError: an image is unreadable.
    """
    files = FileStore(paths, resize)
    pinned = images.device.type == "cuda"
    numbers = torch.arange(len(paths)).split(IMAGES_AT_A_TIME)
    with tqdm(desc="decoding images", total=len(paths), unit="img", leave=False, disable=bars_hidden()) as progress:
        decoded = read_ahead(lambda chunk: files.fetch(chunk.tolist(), pinned=pinned), numbers)
        for room, pixels in zip(images.split(IMAGES_AT_A_TIME), decoded, strict=True):
            room.copy_(pixels, non_blocking=True)
            progress.update(len(pixels))
