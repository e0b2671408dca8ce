import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from data.cache.shared import NoRoomError, shared_bytes
from tests.processes import run_in_processes
from utils.distributed import this_process, wait_for_all

SIZE = 3_000_000


def write_and_read(folder: Path | None) -> tuple[bytes, int]:
    """What all have written, and the number of files while the memory is in use."""
    memory, rank = shared_bytes(SIZE, folder), this_process().rank
    memory[rank * 700_000] = rank + 1
    wait_for_all()
    num_files = 0 if folder is None else len(list(folder.iterdir()))
    wait_for_all()
    return memory[::700_000], num_files


def on_two_machines(folder: Path) -> bytes:
    rank = this_process().rank
    os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"] = str(rank % 2), "2"
    written, num_files = write_and_read(folder / str(rank // 2))
    os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"] = str(rank), "4"
    assert num_files == 0
    return written


def refused(folder: Path) -> tuple[str, int]:
    """The message, and the number of files that are left."""
    with pytest.raises(NoRoomError) as caught:
        shared_bytes(SIZE, folder)
    num_files = len(list(folder.parent.rglob("person-reid-*")))
    wait_for_all()
    return str(caught.value), num_files


def full(descriptor: int, offset: int, size: int) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_process(folder: Path) -> tuple[tuple[bytes, int], tuple[bytes, int], bytes, tuple[str, int], tuple[str, int]]:
    (empty := folder / "empty").mkdir(exist_ok=True)
    together, in_system, apart = write_and_read(empty), write_and_read(None), on_two_machines(folder)
    no_folder = refused(folder / "nowhere")
    if this_process().rank == 0:
        os.posix_fallocate = full
    return together, in_system, apart, no_folder, refused(empty)


def test_processes_of_a_machine_see_what_the_others_write_or_are_all_refused(tmp_path: Path) -> None:
    for machine in ("0", "1"):
        (tmp_path / machine).mkdir()
    found = run_in_processes(in_process, 4, tmp_path)
    what = "for all processes of a machine"
    for rank, (together, in_system, apart, no_folder, no_room) in enumerate(found):
        assert together == (b"\1\2\3\4\0", 0)
        assert in_system[0] == together[0]
        assert apart == (b"\1\2\0\0\0" if rank < 2 else b"\0\0\3\4\0")
        assert no_folder == (f"3 MiB in {tmp_path}/nowhere {what}: No such file or directory", 0)
        assert no_room == (f"3 MiB in {tmp_path}/empty {what}: No space left on device", 0)
