"""Locks between real processes."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import ROOT
from utils.errors import DataError
from utils.locks import NO_LOCKS, LockedError, locked

PRELUDE = """
import logging, os, subprocess, sys, time
from pathlib import Path
from utils.locks import locked
logging.basicConfig(level=logging.INFO, format="%(message)s")
path = Path(sys.argv[1])
"""
HOLD = """
with locked(path, "a test", wait=True):
    print("held", flush=True)
    sys.stdin.read()
"""
FILES = [".lock", ".lock.owner"]


@contextmanager
def process(path: Path, code: str, *, holds: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run code in another process until the end of the block; `holds`: wait until it says so."""
    command = [sys.executable, "-W", "error", "-c", PRELUDE + code, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
        try:
            assert child.stdout is not None
            assert not holds or child.stdout.readline() == "held\n"
            yield child
        finally:
            child.kill()


def holder(path: Path, code: str = "") -> AbstractContextManager[subprocess.Popen[str]]:
    """A process that holds the lock until its stdin is closed or it is killed."""
    return process(path, code + HOLD, holds=True)


def try_lock(path: Path) -> None:
    with locked(path, "a test", wait=False):
        pass


def refusal(path: Path) -> str:
    with pytest.raises(LockedError) as raised:
        try_lock(path)
    return str(raised.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def test_a_second_holder_is_refused_with_the_owner_and_no_file_remains(path: Path) -> None:
    with holder(path) as child:
        owner = rf"process {child.pid} on host \S+ \(since \d{{4}}-\d\d-\d\dT\S+\)"
        assert re.match(rf"{path.parent}: busy with a test: {owner} holds the lock", refusal(path))
        child.communicate()
    with suppress(RuntimeError), locked(path, "a test", wait=False):
        assert f"process {os.getpid()} on" in refusal(path)
        raise RuntimeError
    assert names(path.parent) == []


def test_a_waiting_process_says_so_once_and_gets_the_lock(path: Path) -> None:
    with holder(path) as first, process(path, HOLD) as second:
        assert second.stderr is not None
        assert second.stdout is not None
        assert f"busy with a test: waiting for process {first.pid} on host" in second.stderr.readline()
        first.communicate()
        assert second.stdout.readline() == "held\n"
        assert second.communicate()[1] == ""
    assert names(path.parent) == []


def test_the_lock_of_a_killed_process_is_free(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with holder(path) as killed:
        killed.kill()
        killed.wait()
    assert names(path.parent) == FILES
    with caplog.at_level(logging.INFO), locked(path, "a test", wait=False):
        assert f"{path}: taken over from process {killed.pid} on host" in caplog.text
        assert f"process {os.getpid()} on host" in refusal(path)
    assert names(path.parent) == []


def test_a_forked_child_that_leaves_the_block_does_not_release_the_lock(path: Path) -> None:
    code = """
with locked(path, "a test", wait=False):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print("held", flush=True)
        sys.stdin.read()
"""
    with process(path, code, holds=True) as child:
        assert "process" in refusal(path)
        child.communicate()
    assert names(path.parent) == []


def test_the_lock_of_another_process_in_a_folder_that_was_replaced_stays(path: Path) -> None:
    with locked(path, "a test", wait=False):
        for name in FILES:
            path.with_name(name).unlink()
        other = holder(path)
        child = other.__enter__()
    assert f"process {child.pid} on" in refusal(path)
    other.__exit__(None, None, None)


def test_a_lock_file_that_cannot_be_opened_is_named(path: Path) -> None:
    path.mkdir()
    with pytest.raises(DataError, match=rf"^{path.parent}: cannot be written: .*directory \(\.lock\)"):
        try_lock(path)


def test_a_full_disk_only_hides_the_owner(path: Path) -> None:
    pytest.importorskip("resource", reason="needs POSIX limits")
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    with holder(path, code) as child:
        assert "busy with a test: another process holds the lock" in refusal(path)
        child.communicate()
    try_lock(path)
    assert names(path.parent) == []


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_file_system_without_locks_is_locked_by_a_file(path: Path, number: int) -> None:
    broken = f"""
import fcntl
def flock(*_): raise OSError({number}, "no locks")
fcntl.flock = flock
"""
    with holder(path, broken) as child:
        with process(path, f"{broken}with locked(path, 'a test', wait=False): pass") as other:
            errors = other.communicate(timeout=60)[1]
            assert f"LockedError: {path.parent}: busy with a test: process {child.pid} on" in errors
        child.communicate()
        assert (child.returncode, names(path.parent)) == (0, [])
    with holder(path, broken) as child:
        child.kill()
        child.wait()
        with process(path, broken + HOLD.replace("wait=True", "wait=False"), holds=True) as other:
            other.communicate()
    assert names(path.parent) == []
