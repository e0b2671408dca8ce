"""Memory shared by the processes of a machine."""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from utils.distributed import gather_objects, this_process
from utils.errors import UserError


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
    if folder is None:
        folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    what = f"{size / 2**20:.0f} MiB in {folder} for all processes of a machine"
    descriptor, name = -1, ""
    with ExitStack() as stack:
        with _all_or_none(what):
            if dist.local_rank == 0:
                descriptor, name = tempfile.mkstemp(prefix="person-reid-", dir=folder)
                stack.callback(os.close, descriptor)
                stack.callback(Path(name).unlink, missing_ok=True)
                os.ftruncate(descriptor, size)
        name = gather_objects(name)[dist.rank - dist.local_rank]
        with _all_or_none(what), Path(name).open("r+b") as file:
            memory = mmap.mmap(file.fileno(), size)
        with _all_or_none(what):
            if dist.local_rank == 0:
                Path(name).unlink()
                # Otherwise a full /dev/shm would end the process later, by a signal.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(descriptor, 0, size)
    return memory


@contextmanager
def _all_or_none(what: str) -> Iterator[None]:
    """Raise NoRoomError in all processes if the block raises OSError in one of them."""
    problem = None
    try:
        yield
    except OSError as error:
        problem = f"{what}: {error.strerror}"
    problems = [problem for problem in gather_objects(problem) if problem is not None]
    if problems:
        raise NoRoomError(problems[0])
