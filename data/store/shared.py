"""Memory that the processes of one machine have in common."""

import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from utils.distributed import gather_objects, this_process
from utils.errors import UserError

T = TypeVar("T")


class NoRoomError(UserError):
    """The memory cannot be had."""


def shared_bytes(size: int, folder: Path | None = None) -> mmap.mmap:
    """`size` bytes, at first zero, that all processes of this machine read and write; gone with the last of them.

    Every process of the run must call this. The file behind it loses its name before it gets any memory, so whenever
    the processes are killed, nothing stays but, at worst, an empty file, whose name no later run will want.

    Args:
        size: at least 1.
        folder: where the first process of the machine makes the file; None: in /dev/shm, which is memory, or where
            there is none among the temporary files.

    Raises:
        NoRoomError: it cannot be had on some machine; in every process.
    """
    dist = this_process()
    is_first = dist.local_rank == 0
    if folder is None:
        folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    what = f"{size / 2**20:.0f} MiB in {folder} for all processes of a machine"
    with ExitStack() as closing:
        with ExitStack() as naming:

            def create() -> tuple[int, str]:
                descriptor, name = tempfile.mkstemp(prefix="person-reid-", dir=folder)
                closing.callback(os.close, descriptor)
                naming.callback(os.unlink, name)
                os.ftruncate(descriptor, size)
                return descriptor, name

            descriptor, name = _all_or_none(create if is_first else lambda: (-1, ""), what)
            name = gather_objects(name)[dist.rank - dist.local_rank]
            shared = _all_or_none(lambda: _attach(name, size), what)
        # Without it a full /dev/shm would show only later, by a signal that ends the process.
        _all_or_none((lambda: _reserve(descriptor, size)) if is_first else (lambda: None), what)
    return shared


def _attach(name: str, size: int) -> mmap.mmap:
    """The file's bytes, which stay when its name goes."""
    with Path(name).open("r+b") as file:
        return mmap.mmap(file.fileno(), size)


def _all_or_none(task: Callable[[], T], what: str) -> T:
    """The task's result, if the tasks of all processes succeed."""
    result, problem = None, None
    try:
        result = task()
    except OSError as error:
        problem = f"{what}: {error.strerror}"
    problems = [problem for problem in gather_objects(problem) if problem is not None]
    if problems:
        raise NoRoomError(problems[0])
    return result  # pyright: ignore[reportReturnType]


def _reserve(descriptor: int, size: int) -> None:
    """Take the memory now; where the system has no such call the file grows as it is written."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
