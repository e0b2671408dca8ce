"""Memory: how much is free, how malloc keeps it, and messages when the device has too little."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError, first_line

# Names and values of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""How the errors of torch, CUDA, cuBLAS and cuDNN say it."""


def keep_freed_memory() -> bool:
    """Make malloc keep freed memory for the next step instead of returning it; returns whether it could be set.

    By default glibc maps every large activation anew and the kernel zeroes its pages each time. Keeping memory trains
    about a third faster on a CPU, with the same peak. Without glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28}
    accepted = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(accepted)


@contextmanager
def explain_oom(doing: str, advice: str) -> Iterator[None]:
    """Turn a device's out-of-memory error into a message with advice.

    Args:
        doing: what took the memory, with its sizes.
        advice: what to lower.

    Raises:
        UserError: the device has run out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        # torch's own error is one of them; the libraries that it calls have others.
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        raise UserError(f"out of memory, {doing}: {first_line(error)}\n{advice}") from error


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes available without swapping and within the limit of a container; None if unknown.

    Args:
        root: the folder in which `proc` and `sys` lie.

    Source: Documentation/filesystems/proc.rst (MemAvailable), admin-guide/cgroup-v2.rst (memory.max, memory.current,
    memory.stat) and admin-guide/cgroup-v1/memory.rst of the Linux kernel.
    """
    meminfo = root / "proc/meminfo"
    if not meminfo.exists():
        return None
    available = int(_fields(meminfo)["MemAvailable:"]) * 1024
    return max(0, min([available, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes left in the control group of this process and in each group around it that has a limit."""
    memberships = root / "proc/self/cgroup"
    if not memberships.exists():
        return
    for line in memberships.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            mount = root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = root / "sys/fs/cgroup/memory"
        else:
            continue
        # In a container the path may be the one outside, and what is mounted the group itself.
        group = Path(path.lstrip("/"))
        for folder in (mount / group, *(mount / parent for parent in group.parents)):
            if (left := _left_in(folder, *names)) is not None:
                yield left


def _left_in(folder: Path, limit_name: str, usage_name: str, reclaimable_name: str) -> int | None:
    """Bytes left in one control group; None if it has no limit."""
    files = [folder / name for name in (limit_name, usage_name, "memory.stat")]
    if not all(file.exists() for file in files):
        return None
    limit = files[0].read_text().strip()
    if limit == "max":
        return None
    # The page cache of files read long ago counts as used, but is freed on demand.
    reclaimable = int(_fields(files[2]).get(reclaimable_name, 0))
    return int(limit) - int(files[1].read_text()) + reclaimable


def _fields(path: Path) -> dict[str, str]:
    """First word of each line -> the second."""
    words = (line.split() for line in path.read_text().splitlines())
    return {line[0]: line[1] for line in words if len(line) > 1}
