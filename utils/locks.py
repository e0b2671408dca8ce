"""Locks between processes: one works in a place, the others are refused or wait.

The kernel holds a lock (flock) and drops it with its process, however that ends; what the lock file says of the owner
is for messages. Where the file system knows no locks, the file is the lock, and what it says of the owner decides.
A file system that locks for each machine by itself, as some cluster disks are mounted, is not told from a proper one.
"""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from utils.errors import DataError, UserError
from utils.owners import Owner, Record, read_record, read_record_at, write_record

SECONDS_BETWEEN_TRIES = 0.1

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)

logger = logging.getLogger(__name__)


class LockedError(UserError):
    """Another process holds the lock; `owner` is None if the lock file does not tell which."""

    def __init__(self, message: str, owner: Owner | None) -> None:
        super().__init__(message)
        self.owner = owner


@contextmanager
def locked(path: Path, purpose: str, *, wait: bool) -> Iterator[None]:
    """Hold the lock file `path` within this block; it is gone afterwards.

    A block within a block of the same path is refused, or waits for ever. Child processes do not inherit the lock,
    neither started ones nor forked ones.

    Args:
        purpose: what is done under the lock, for messages: "a run".
        wait: while another process holds it, wait, which a signal's exception may end; otherwise refuse at once.

    Raises:
        LockedError: another process holds the lock, and `wait` is off.
        DataError: the lock file cannot be written.
    """
    held = _acquire(path, purpose, wait)
    try:
        yield
    finally:
        held.release()


class _Held:
    """The lock is ours.

    Args:
        fd: open as long as the kernel is to hold the lock; None if the file is the lock.
    """

    def __init__(self, path: Path, record: Record, fd: int | None) -> None:
        self.path, self.record, self.fd = path, record, fd
        if fd is not None:
            # A forked child has the descriptor too, and would keep the lock if it outlived this process.
            os.register_at_fork(after_in_child=self._close)

    def release(self) -> None:
        """Remove the file, then give the lock back. In a forked child: nothing."""
        if self.record.pid != os.getpid():
            return
        try:
            # It may have been removed by hand, or with its folder, and be another's by now.
            if read_record_at(self.path) == self.record if self.fd is None else _is_at(self.path, self.fd):
                self.path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s: cannot be removed: %s", self.path, error.strerror)
        finally:
            self._close()

    def _close(self) -> None:
        if self.fd is not None:
            fd, self.fd = self.fd, None
            os.close(fd)


class _Busy(NamedTuple):
    """The lock is another process's."""

    record: Record | None
    file: Path
    by_kernel: bool
    """Whether it is free as soon as that process has ended; otherwise `file` may be left of it."""

    def __str__(self) -> str:
        return str(self.record.owner) if self.record else "another process"

    @property
    def advice(self) -> str:
        return "" if self.by_kernel else f"; if it no longer runs, remove {self.file}"


def _acquire(path: Path, purpose: str, wait: bool) -> _Held:
    told = False
    while isinstance(result := _attempt(path), _Busy):
        place = f"{path.parent}: busy with {purpose}"
        if not wait:
            owner = result.record.owner if result.record else None
            text = f"{place}: {result} is at it; wait until it has ended, or end it{result.advice}"
            raise LockedError(text, owner)
        if not told:
            logger.info("%s: waiting for %s%s", place, result, result.advice)
            told = True
        time.sleep(SECONDS_BETWEEN_TRIES)
    return result


def _attempt(path: Path) -> _Held | _Busy:
    """Take the lock if it is free; raises DataError if its file cannot be written."""
    while True:
        try:
            if (opened := _open(path)) is None:
                continue
            fd, is_new = opened
            result = None
            try:
                result = _settle(path, fd, is_new)
            finally:
                if not isinstance(result, _Held) or result.fd is None:
                    os.close(fd)
        except OSError as error:
            raise DataError(f"{path.parent}: cannot be written: {error.strerror} ({path.name})") from error
        if result is not None:
            return result


def _open(path: Path) -> tuple[int, bool] | None:
    """A descriptor of the file, and whether this made it; None if it vanished meanwhile."""
    flags = os.O_RDWR | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        try:
            return os.open(path, flags), False
        except FileNotFoundError:
            return None
    with suppress(OSError):
        os.fchmod(fd, 0o666)  # others who share the folder must be able to take over what a killed process leaves
    return fd, True


def _settle(path: Path, fd: int, is_new: bool) -> _Held | _Busy | None:
    """Whose the lock is; None: the file is not the one at its path any more."""
    by_kernel = _flock(fd)
    before = read_record(fd)
    if by_kernel is False:
        return _Busy(before, path, by_kernel=True)
    if not _is_at(path, fd):
        return None
    # The kernel's word counts among those who asked it. Without it, an empty file is one about to be written.
    is_free = is_new or (by_kernel and (before is None or before.by_kernel)) or (before and before.has_ended())
    if not is_free:
        return _Busy(before, path, by_kernel=False)
    record = Record.of_this_process(by_kernel=bool(by_kernel))
    if by_kernel:
        # Without room on the disk the others are not told who holds the lock; it holds all the same.
        with suppress(OSError):
            write_record(fd, record)
    elif before is not None:
        busy = _replace(path, before, record)
        if busy is not None:
            return busy
    else:
        try:
            write_record(fd, record)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    if before is not None:
        logger.info("%s: taken over from %s, which ended without cleaning up", path, before.owner)
    return _Held(path, record, fd if by_kernel else None)


def _replace(path: Path, stale: Record, record: Record) -> _Busy | None:
    """Put a record in the place of one whose owner is dead, without the kernel's help; None if that worked.

    Of several that try at once, the one does it that makes the file beside it.
    """
    successor = path.with_name(f"{path.name}.next")
    try:
        fd = os.open(successor, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return _Busy(read_record_at(successor), successor, by_kernel=False)
    try:
        write_record(fd, record)
        if (now := read_record_at(path)) != stale:
            successor.unlink(missing_ok=True)
            return _Busy(now, path, by_kernel=False)
        successor.replace(path)
    except BaseException:
        successor.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    return None


def _flock(fd: int) -> bool | None:
    """Whether the kernel gave the lock; None if it has none for this file system."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _is_at(path: Path, fd: int) -> bool:
    """Whether an open file still is the one at its path: its owner removes it, and the next process makes another."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
