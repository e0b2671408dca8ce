"""What a piece of work costs, and contestants that take turns, each in a process of its own."""

import ctypes
import gc
import platform
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")
PROCESS = Path("/proc/self")


class Cost(NamedTuple):
    """Clock time, and the peak of memory beyond what was held before."""

    seconds: float
    peak_mib: float


def measured(work: Callable[[], T], device: torch.device) -> tuple[T, Cost]:
    """Do the work and measure its cost; Linux only.

    On CUDA the memory is what torch's allocator has handed out, on the CPU the resident memory of this process, whose
    peak the kernel keeps and forgets when asked to.
    """
    before = memory_in_use(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        (PROCESS / "clear_refs").write_text("5")
    synchronize(device)
    start = time.perf_counter()
    result = work()
    synchronize(device)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else status("VmHWM")
    return result, Cost(seconds, (peak - before) / 2**20)


def memory_in_use(device: torch.device) -> int:
    """Bytes in use after unused memory has been freed."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        # What the C library keeps of freed memory could be used again without showing as growth.
        ctypes.CDLL(None).malloc_trim(0)
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else status("VmRSS")


def status(name: str) -> int:
    """Bytes in the entry `name` of this process's status in /proc."""
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Contestant:
    """An object in a process of its own, so that no contestant changes another's memory, threads or caches.

    Args:
        build: Makes the object there; a module-level function or class.
        arguments: For `build`.
    """

    def __init__(self, build: Callable[..., object], *arguments: object) -> None:
        self.pool = ProcessPoolExecutor(1, get_context("spawn"))
        self.pool.submit(_build, build, arguments).result()

    def ask(self, method: str, *arguments: object) -> Any:
        """Call a method of the object."""
        return self.pool.submit(_call, method, arguments).result()

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()


def take_turns(contestants: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Ask every contestant once in each round, in alternating order, so that drift affects all alike."""
    answers: dict[str, list[T]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in list(contestants)[:: 1 if number % 2 == 0 else -1]:
            answers[name].append(contestants[name]())
    return answers


_objects: list[object] = []  # of this process, if it is a contestant's


def _build(build: Callable[..., object], arguments: tuple[object, ...]) -> None:
    _objects.append(build(*arguments))


def _call(method: str, arguments: tuple[object, ...]) -> Any:
    return getattr(_objects[0], method)(*arguments)
