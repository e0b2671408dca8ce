"""Locks between processes: one works in a place, the others wait or are refused."""

import errno
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from utils.errors import DataError, UserError

SECONDS_BETWEEN_TRIES = 0.1
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of a file system without locks, such as NFS without its lock service."""

logger = logging.getLogger(__name__)


class LockedError(UserError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, purpose: str, *, wait: bool) -> Iterator[None]:
    """Hold the lock file `path` within this block.

    The kernel holds the lock and releases it when the process ends, however it ends; child processes do not inherit it.
    On a file system without locks a file X.soft beside it is the lock; it is taken over if its process has ended.
    Another file names the owner for messages. All files are removed at the end of the block.

    Args:
        purpose: what is done under the lock, for messages: "a training".
        wait: whether to wait while another process holds the lock.

    Raises:
        LockedError: `wait` is False and another process holds the lock.
        DataError: the lock file cannot be opened or locked.
    """
    # Others who share the folder must be able to open what a killed process leaves.
    lock: BaseFileLock = FileLock(path, mode=0o666, fallback_to_soft=False)
    try:
        try:
            _acquire(lock, path, purpose, wait)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            lock = SoftFileLock(path.with_name(f"{path.name}.soft"))
            _acquire(lock, path, purpose, wait)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be written: {error.strerror or error} ({path.name})") from error
    try:
        owner = _write_owner(path)
        try:
            yield
        finally:
            _remove(path, owner)
    finally:
        lock.release()


def _acquire(lock: BaseFileLock, path: Path, purpose: str, wait: bool) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        place, owner = f"{path.parent}: busy with {purpose}", _owner(path) or "another process"
        if not wait:
            raise LockedError(f"{place}: {owner} holds the lock; wait or stop it") from None
        logger.info("%s: waiting for %s", place, owner)
        lock.acquire(poll_interval=SECONDS_BETWEEN_TRIES)


def _owner_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


def _owner(path: Path) -> str:
    """The process that holds a lock, or that was killed while it did; "" if unknown."""
    try:
        return _owner_file(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _write_owner(path: Path) -> str:
    """Write this process beside its lock, if there is room on the disk; returns what was written."""
    if killed := _owner(path):
        logger.info("%s: taken over from %s, which ended without cleaning up", path, killed)
    since = datetime.now().astimezone().isoformat(timespec="milliseconds")
    owner = f"process {os.getpid()} on host {platform.node()} (since {since})"
    file = _owner_file(path)
    with suppress(OSError):
        file.unlink(missing_ok=True)
        file.write_text(owner, encoding="utf-8")
    return owner


def _remove(path: Path, owner: str) -> None:
    """Remove a lock that this process still holds; not in a forked child, nor the next owner's in a replaced folder."""
    if owner.startswith(f"process {os.getpid()} ") and _owner(path) == owner:
        with suppress(OSError):
            _owner_file(path).unlink()
            # A process that has opened this file and waits for its lock finds it gone, and opens the new one.
            path.unlink()
