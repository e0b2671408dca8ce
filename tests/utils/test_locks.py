"""Locks between real processes: who gets in, who waits, who is refused, and what is left behind."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import ROOT
from utils import locks
from utils.errors import DataError
from utils.locks import LockedError, locked

PRELUDE = """
import errno, fcntl, logging, os, subprocess, sys, time
from pathlib import Path
from utils.locks import locked
logging.basicConfig(level=logging.INFO, format="%(message)s")
path = Path(sys.argv[1])
"""
NO_FLOCK = """
def flock(*arguments): raise OSError(errno.ENOSYS, "no locks here")
fcntl.flock = flock
"""
HOLD = """
with locked(path, "a test", wait=True):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["kernel", "file"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who keeps the lock; "file": code for processes, and this process, without flock."""
    if request.param == "kernel":
        return ""
    monkeypatch.setattr(locks.fcntl, "flock", no_flock)
    return NO_FLOCK


def no_flock(*arguments: object) -> None:
    raise OSError(38, "no locks here")


@contextmanager
def process(path: Path, code: str) -> Iterator[subprocess.Popen[str]]:
    """Runs code in a process of its own, and ends that."""
    command = [sys.executable, "-W", "error", "-c", PRELUDE + code, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


@contextmanager
def holder(path: Path, code: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its stdin is closed or it is killed."""
    with process(path, code + HOLD) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child


def try_lock(path: Path) -> None:
    with locked(path, "a test", wait=False):
        pass


def refusal(path: Path) -> LockedError:
    with pytest.raises(LockedError) as raised:
        try_lock(path)
    return raised.value


def wait_until_free(path: Path) -> None:
    for _ in range(300):
        with suppress(LockedError):
            return try_lock(path)
        time.sleep(0.1)
    return try_lock(path)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


@pytest.fixture
def leave_dead(path: Path, means: str) -> Callable[[], int]:
    """Leaves the lock of a process that was killed; returns its pid."""

    def leave() -> int:
        with holder(path, means) as child:
            child.kill()
            child.wait()
        assert left(path.parent) == [".lock"]
        return child.pid

    return leave


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_only_one_holds_it_and_nothing_is_left(path: Path, means: str) -> None:
    for _ in range(2):
        with locked(path, "a test", wait=False):
            assert refusal(path).owner is not None
        assert left(path.parent) == []


def test_it_is_given_back_after_a_failure(path: Path, means: str) -> None:
    def fail() -> None:
        with locked(path, "a test", wait=False):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert left(path.parent) == []
    try_lock(path)


def test_the_owner_is_named(path: Path, means: str) -> None:
    with holder(path, means) as child:
        error = refusal(path)
        assert error.owner is not None
        assert error.owner.pid == child.pid
        where = rf"process {child.pid} on host \S+ \(since \d{{4}}-\d\d-\d\dT\S+\)"
        assert str(error).startswith(f"{path.parent}: busy with a test: process {child.pid} on host ")
        assert re.search(where, str(error))
        # Where the file is the lock, one day it may be a leftover.
        assert (f"if it no longer runs, remove {path}" in str(error)) == bool(means)
        child.communicate()
    try_lock(path)


def test_who_waits_gets_in_when_the_owner_ends(path: Path, means: str) -> None:
    with holder(path, means) as first, process(path, means + HOLD) as second:
        assert second.stderr is not None
        assert second.stdout is not None
        assert f"busy with a test: waiting for process {first.pid} on host" in second.stderr.readline()
        first.communicate()
        assert second.stdout.readline() == "held\n"
        assert second.communicate()[1] == ""  # it was told once
    assert left(path.parent) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting(path: Path, means: str, number: signal.Signals) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
    with holder(path, means), process(path, code + means + HOLD) as waiting:
        assert waiting.stderr is not None
        assert "waiting for" in waiting.stderr.readline()
        waiting.send_signal(number)
        assert "KeyboardInterrupt" in waiting.communicate(timeout=10)[1]
        assert refusal(path).owner is not None
        assert left(path.parent) == [".lock"]


def test_the_lock_of_a_dead_process_is_taken_over(
    path: Path, leave_dead: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    dead = leave_dead()
    with caplog.at_level(logging.INFO), locked(path, "a test", wait=False):
        assert f"{path}: taken over from process {dead} on host" in caplog.text
        assert "which ended without cleaning up" in caplog.text
        owner = refusal(path).owner
        assert owner is not None
        assert owner.pid == os.getpid()
    assert left(path.parent) == []


@pytest.mark.parametrize(
    "start_child",
    [
        "subprocess.Popen(['sleep', '600'])",
        "subprocess.Popen(['sleep', '600'], stdin=subprocess.DEVNULL, start_new_session=True)",
        "os.fork() or time.sleep(600)",
        "import multiprocessing; multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,)).start()",
    ],
)
def test_a_child_that_outlives_its_parent_does_not_hold_the_lock(path: Path, start_child: str) -> None:
    code = f"""
with locked(path, "a test", wait=False):
    {start_child}
    print("held", flush=True)
    sys.stdin.read()
"""
    with process(path, code) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert refusal(path).owner is not None
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        if not children.exists():
            pytest.skip("the system does not tell a process's children")
        grandchildren = [int(pid) for pid in children.read_text().split()]
        try:
            child.kill()
            child.wait()
            assert [os.kill(pid, 0) for pid in grandchildren] == [None]
            wait_until_free(path)
        finally:
            for pid in grandchildren:
                os.kill(pid, signal.SIGKILL)


def test_a_forked_child_that_leaves_the_block_does_not_end_the_lock(path: Path, means: str) -> None:
    code = """
with locked(path, "a test", wait=False):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print("held", flush=True)
        sys.stdin.read()
"""
    with process(path, means + code) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert refusal(path).owner is not None
        child.communicate()
    assert left(path.parent) == []


def test_many_at_once_go_in_one_by_one(path: Path, leave_dead: Callable[[], int], means: str) -> None:
    """Each adds one to a number, again and again; some are killed, and the first finds the lock of a dead one."""
    number = path.with_name("number")
    number.write_text("0")
    add = """
number = path.with_name("number")
for _ in range(20):
    with locked(path, "a test", wait=True):
        value = int(number.read_text())
        time.sleep(0.001)
        number.write_text(str(value + 1))
"""
    leave_dead_in_the_middle = "with locked(path, 'a test', wait=True): os.kill(os.getpid(), 9)\n"
    number.unlink()
    leave_dead()
    number.write_text("0")
    # No pauses, so that they meet as often as can be.
    quick = means + "import utils.locks; utils.locks.SECONDS_BETWEEN_TRIES = 0.001\n"
    with (
        process(path, quick + add) as one,
        process(path, quick + add) as two,
        process(path, quick + add) as three,
        process(path, quick + leave_dead_in_the_middle) as four,
    ):
        assert four.wait(timeout=60) == -signal.SIGKILL
        for child in (one, two, three):
            assert "Traceback" not in child.communicate(timeout=60)[1]
    assert number.read_text() == "60"
    # The one that was killed may have been the last: what it left is gone after the next.
    with locked(path, "a test", wait=False):
        pass
    assert left(path.parent) == ["number"]


def test_a_file_that_was_replaced_before_it_was_locked_is_no_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner ends, and another takes the lock with a new file, while this process has the old one open."""
    flock, owners = locks.fcntl.flock, []

    def flock_too_late(*arguments: int) -> None:
        monkeypatch.setattr(locks.fcntl, "flock", flock)
        path.unlink()
        owners.append(locked(path, "another test", wait=False))
        owners[0].__enter__()
        flock(*arguments)

    path.touch()
    monkeypatch.setattr(locks.fcntl, "flock", flock_too_late)
    assert refusal(path).owner is not None
    owners[0].__exit__(None, None, None)
    assert left(path.parent) == []


def test_a_removed_lock_file_is_not_held_by_a_name(path: Path, means: str) -> None:
    """With a run's folder its lock file may go; what another process makes there then is its own."""
    with locked(path, "a test", wait=False):
        path.unlink()
        with holder(path, means) as child:
            owner = refusal(path).owner
            assert owner is not None
            assert owner.pid == child.pid
            child.communicate()
    assert left(path.parent) == []


def test_the_end_leaves_another_process_s_lock_alone(path: Path, means: str) -> None:
    with locked(path, "a test", wait=False):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/missing: cannot be written: No such file or directory"):
        try_lock(tmp_path / "missing" / ".lock")
    (tmp_path / ".lock").mkdir()
    with pytest.raises(DataError, match=rf"^{tmp_path}: cannot be written: Is a directory \(\.lock\)"):
        try_lock(tmp_path / ".lock")


def test_without_room_for_a_name_the_lock_holds_all_the_same(path: Path) -> None:
    pytest.importorskip("resource", reason="limits as POSIX has them")
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    with holder(path, code) as child:
        error = refusal(path)
        assert error.owner is None
        assert "busy with a test: another process is at it" in str(error)
        child.communicate()
    assert left(path.parent) == []


def test_a_reused_pid_is_not_taken_for_the_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("the system does not tell when a process began")
    monkeypatch.setattr(locks.fcntl, "flock", no_flock)
    with holder(path, NO_FLOCK) as child:
        assert refusal(path).owner is not None
        edit(path, start="1")
        try_lock(path)
        child.kill()
    assert left(path.parent) == []


@pytest.mark.parametrize("by_kernel", [True, False], ids=["there", "here as there"])
def test_a_lock_without_the_kernel_is_respected_wherever_it_was_made(
    path: Path, monkeypatch: pytest.MonkeyPatch, by_kernel: bool
) -> None:
    """Another host may mount the same disk without locks; of its processes nothing is known here."""
    with holder(path, NO_FLOCK) as child:
        child.kill()
    edit(path, host="elsewhere", machine="elsewhere")
    if not by_kernel:
        monkeypatch.setattr(locks.fcntl, "flock", no_flock)
    error = refusal(path)
    assert f"process {child.pid} on host elsewhere" in str(error)
    assert str(error).endswith(f"if it no longer runs, remove {path}")
    path.unlink()
    try_lock(path)


def test_an_empty_file_without_the_kernel_is_somebody_s(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its maker may be about to write into it."""
    monkeypatch.setattr(locks.fcntl, "flock", no_flock)
    path.touch()
    error = refusal(path)
    assert error.owner is None
    assert str(error).endswith(
        f"another process is at it; wait until it has ended, or end it; if it no longer runs, remove {path}"
    )
    monkeypatch.undo()
    try_lock(path)  # the kernel knows better
    assert left(path.parent) == []


def test_a_failure_of_the_lock_itself_is_not_taken_for_another_owner(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "flock", fail)
    with pytest.raises(DataError, match="Input/output error"), locked(path, "a test", wait=True):
        pass
