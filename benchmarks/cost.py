"""What a piece of work costs: seconds, and the most memory it ever held."""

import ctypes
import gc
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

T = TypeVar("T")
PROCESS = Path("/proc/self")


class Cost(NamedTuple):
    """Clock time and the peak of memory, the latter in all, not beyond what was there before."""

    seconds: float
    peak_bytes: int


def measured(work: Callable[[], T], device: torch.device) -> tuple[T, Cost]:
    """Do it, and say what it cost.

    On a CUDA device the memory is what torch's allocator has handed out. On the CPU it is the resident memory of this
    process, whose peak the kernel keeps and, since Linux 4.0, forgets when asked to; nothing is sampled, so that no
    peak is missed and nothing runs beside the work.

    Raises:
        OSError: the system keeps no such account.
    """
    release_freed_memory()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        (PROCESS / "clear_refs").write_text("5")
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")
    return result, Cost(seconds, peak)


def memory_in_use(device: torch.device) -> int:
    """Bytes held now, after everything that can be given back has been."""
    release_freed_memory()
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS")


def release_freed_memory() -> None:
    """Give back what is freed: kept by the C library, it could be used again without ever showing as growth."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int:
    """Bytes that the kernel's account of this process shows under `name`."""
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024
