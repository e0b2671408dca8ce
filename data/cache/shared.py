"""Memory shared by the processes of a machine."""

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
    """The memory is not available."""


def shared_bytes(size: int, folder: Path | None = None) -> mmap.mmap:
    """`size` zero bytes that all processes of this machine read and write; released with the last of them.

    Every process of the run must call this. The file behind it is unlinked before any memory is allocated, so a killed
    process leaves at worst an empty file.

    Args:
        size: at least 1.
        folder: where local rank 0 makes the file; None: /dev/shm, which is memory, or the temporary folder.

    Raises:
        NoRoomError: the memory is not available on some machine; in every process.
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
        # Otherwise a full /dev/shm would end the process later, by a signal.
        _all_or_none((lambda: _reserve(descriptor, size)) if is_first else (lambda: None), what)
    return shared


def _attach(name: str, size: int) -> mmap.mmap:
    """The bytes of the file, which remain when it is unlinked."""
    with Path(name).open("r+b") as file:
        return mmap.mmap(file.fileno(), size)


def _all_or_none(task: Callable[[], T], what: str) -> T:
    """The result of the task, if the tasks of all processes succeed."""
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
    """Allocate the memory now; without such a system call the file grows as it is written."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
