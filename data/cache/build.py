"""Chooses the store of a run by what memory there is, the same in all its processes."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from data.cache.fill import images_in_ram, images_on_device
from data.cache.shared import NoRoomError
from data.cache.stores import DeviceStore, FileStore, ImageStore, RamStore
from data.decoding import Resize
from utils.distributed import fail_together, gather_objects
from utils.errors import ParamsError
from utils.memory import explain_oom, free_memory

logger = logging.getLogger(__name__)

DataCache = Literal["auto", "device", "ram", "none"]

CPU = torch.device("cpu")
MIB = 2**20


class Free(NamedTuple):
    """Free memory, bytes."""

    ram: int | None
    """None: unknown."""
    device: int | None
    """None: the run computes on the CPU."""


def build_store(paths: Sequence[Path], resize: Resize, data_cache: DataCache, device: torch.device = CPU) -> ImageStore:
    """The store that `data_cache` asks for; every process of the run must call this, and all get the same kind.

    Args:
        paths: the images, the same in all processes.
        resize: to what size, in which they are served.
        data_cache: where they are kept decoded. "auto": on the device if they need at most a third of its free memory,
            else in memory if at most a quarter of that, else nowhere.
        device: what the run computes on.

    Raises:
        ParamsError: the place that `data_cache` names does not exist or is too small.
        UserError: an image that is to be kept cannot be read, or the device has run out of memory.
    """
    size = len(paths) * resize.height * resize.width * 3
    free = least(gather_objects(free_now(device)))
    with fail_together():
        place = choose_place(data_cache, size, free)
    what, why = f"{len(paths)} training images of {resize.height}x{resize.width}", _describe(data_cache, size, free)
    if place == "device":
        logger.info("%s are kept decoded on the device:\n  %s", what, why)
        with explain_oom(f"keeping {what} on {device}: {why}", 'data_cache: set "ram" or "none"'):
            return DeviceStore(images_on_device(paths, resize, device))
    if place == "ram":
        try:
            images = images_in_ram(paths, resize)
        except NoRoomError as error:
            if data_cache == "ram":
                with fail_together():
                    raise ParamsError(f'data_cache: "ram": {error}; make room, or set "none"') from error
            why = f"they would fit into memory, but {error}"
        else:
            logger.info("%s are kept decoded in memory:\n  %s", what, why)
            return RamStore(images)
    rule = ';\n  "auto" takes a third of the device or a quarter of the memory' if data_cache == "auto" else ""
    logger.info("%s are decoded at every use:\n  %s%s", what, why, rule)
    return FileStore(paths, resize)


def choose_place(data_cache: DataCache, size: int, free: Free) -> Literal["device", "ram", "none"]:
    """Where `size` bytes of decoded images are kept.

    Raises:
        ParamsError: the place that `data_cache` names does not exist or is too small.
    """
    if data_cache == "none":
        return "none"
    if data_cache == "auto":
        if free.device is not None and size <= free.device // 3:
            return "device"
        return "ram" if free.ram is not None and size <= free.ram // 4 else "none"
    if data_cache == "device" and free.device is None:
        raise ParamsError('data_cache: "device" is the memory of a GPU, and this run computes on the CPU; set "auto"')
    room = free.device if data_cache == "device" else free.ram
    if room is not None and size > room:
        raise ParamsError(
            f'data_cache: "{data_cache}": the decoded training images take {size / MIB:.0f} MiB, and '
            f'{room / MIB:.0f} MiB are free there; set "auto" or "none"'
        )
    return data_cache


def free_now(device: torch.device) -> Free:
    """Free memory as this process sees it."""
    return Free(free_memory(), torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None)


def least(readings: Sequence[Free]) -> Free:
    """The minimum over all processes; unknown where it is unknown to one of them."""
    return Free(*(None if None in column else min(column) for column in zip(*readings, strict=True)))


def _describe(data_cache: DataCache, size: int, free: Free) -> str:
    """The reason for the choice, in numbers."""
    if data_cache == "none":
        return 'data_cache is "none"'
    ram = "the free memory is unknown" if free.ram is None else f"{free.ram / MIB:.0f} MiB of memory are free"
    device = "" if free.device is None else f", {free.device / MIB:.0f} MiB on the device"
    return f"they take {size / MIB:.0f} MiB; {ram}{device}"
