"""Locks between real processes: who gets in, who waits, who is refused, and what is left behind."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import ROOT
from utils.errors import DataError
from utils.locks import LockedError, locked

PRELUDE = """
import logging, os, subprocess, sys, time
from pathlib import Path
from utils.locks import locked
logging.basicConfig(level=logging.INFO, format="%(message)s")
path = Path(sys.argv[1])
"""
LEFT = [".lock", ".lock.owner"]
HOLD = """
with locked(path, "a test", wait=True):
    print("held", flush=True)
    sys.stdin.read()
"""


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


def refusal(path: Path) -> str:
    with pytest.raises(LockedError) as raised:
        try_lock(path)
    return str(raised.value)


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


def leave_killed(path: Path) -> int:
    """Leaves the lock of a process that was killed; returns its pid."""
    with holder(path) as child:
        child.kill()
        child.wait()
    assert left(path.parent) == LEFT
    return child.pid


def test_only_one_holds_it_and_nothing_is_left(path: Path) -> None:
    for _ in range(2):
        with locked(path, "a test", wait=False):
            assert "process" in refusal(path)
        assert left(path.parent) == []


def test_it_is_given_back_after_a_failure(path: Path) -> None:
    def fail() -> None:
        with locked(path, "a test", wait=False):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert left(path.parent) == []
    try_lock(path)


def test_the_owner_is_named(path: Path) -> None:
    with holder(path) as child:
        where = rf"process {child.pid} on host \S+ \(since \d{{4}}-\d\d-\d\dT\S+\)"
        assert re.match(rf"{path.parent}: busy with a test: {where} holds the lock", refusal(path))
        child.communicate()
    try_lock(path)


def test_who_waits_gets_in_when_the_owner_ends(path: Path) -> None:
    with holder(path) as first, process(path, HOLD) as second:
        assert second.stderr is not None
        assert second.stdout is not None
        assert f"busy with a test: waiting for process {first.pid} on host" in second.stderr.readline()
        first.communicate()
        assert second.stdout.readline() == "held\n"
        assert second.communicate()[1] == ""  # it was told once
    assert left(path.parent) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting(path: Path, number: signal.Signals) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
    with holder(path), process(path, code + HOLD) as waiting:
        assert waiting.stderr is not None
        assert "waiting for" in waiting.stderr.readline()
        waiting.send_signal(number)
        assert "KeyboardInterrupt" in waiting.communicate(timeout=10)[1]
        assert "process" in refusal(path)
        assert left(path.parent) == LEFT


def test_the_lock_of_a_killed_process_is_taken_over(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    killed = leave_killed(path)
    with caplog.at_level(logging.INFO), locked(path, "a test", wait=False):
        assert f"{path}: taken over from process {killed} on host" in caplog.text
        assert "which ended without cleaning up" in caplog.text
        assert f"process {os.getpid()} on host" in refusal(path)
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
        assert "process" in refusal(path)
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


def test_a_forked_child_that_leaves_the_block_does_not_end_the_lock(path: Path) -> None:
    code = """
with locked(path, "a test", wait=False):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print("held", flush=True)
        sys.stdin.read()
"""
    with process(path, code) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert "process" in refusal(path)
        child.communicate()
    assert left(path.parent) == []


def test_many_at_once_go_in_one_by_one(path: Path) -> None:
    """Each adds one to a number, again and again; some are killed, and the first finds the lock of a killed one."""
    leave_killed(path)
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
    # No pauses, so that they meet as often as can be.
    quick = "import utils.locks; utils.locks.SECONDS_BETWEEN_TRIES = 0.001\n"
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


def test_a_removed_lock_file_is_not_held_by_a_name(path: Path) -> None:
    """With a run's folder its lock file may go; what another process makes there then is its own."""
    with locked(path, "a test", wait=False):
        path.unlink()
        with holder(path) as child:
            assert f"process {child.pid} on" in refusal(path)
            child.communicate()
    assert left(path.parent) == []


def test_the_end_leaves_another_process_s_lock_alone(path: Path) -> None:
    """As after the removal of a run's folder."""
    with locked(path, "a test", wait=False):
        for name in LEFT:
            path.with_name(name).unlink()
        other = holder(path)
        child = other.__enter__()
    assert f"process {child.pid} on" in refusal(path)
    other.__exit__(None, None, None)


def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(DataError, match=rf"^{tmp_path}: cannot be written: .*directory \(\.lock\)"):
        try_lock(tmp_path / ".lock")


def test_without_room_for_a_name_the_lock_holds_all_the_same(path: Path) -> None:
    pytest.importorskip("resource", reason="limits as POSIX has them")
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    with holder(path, code) as child:
        assert "busy with a test: another process holds the lock" in refusal(path)
        child.communicate()
    try_lock(path)
    assert left(path.parent) == []
