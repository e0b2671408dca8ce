"""Who holds a lock: what its file says of the process, and whether that process still runs."""

import os
import platform
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Owner(NamedTuple):
    """The process that holds a lock."""

    pid: int
    host: str
    since: str
    """When it took the lock, in ISO format."""

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host} (since {self.since})"


class Record(BaseModel):
    """The content of a lock file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int = Field(gt=0, lt=2**31)
    host: str
    since: str
    machine: str
    """Where the pid counts."""
    start: str
    """When the process began; another process with its pid began later. "" where the system does not tell."""
    by_kernel: bool
    """Whether the kernel holds the lock."""

    @classmethod
    def of_this_process(cls, by_kernel: bool) -> Self:
        """The record of a lock that is taken now."""
        return cls(
            pid=os.getpid(),
            host=platform.node(),
            since=datetime.now().astimezone().isoformat(timespec="seconds"),
            machine=_this_machine(),
            start=_start_of(os.getpid()) or "",
            by_kernel=by_kernel,
        )

    @property
    def owner(self) -> Owner:
        """The process, for messages."""
        return Owner(self.pid, self.host, self.since)

    def has_ended(self) -> bool:
        """Whether the process is known to be gone; of a process elsewhere nothing is known."""
        if self.machine != _this_machine():
            return False
        start = _start_of(self.pid)
        return start is None or bool(self.start and start and start != self.start)


def read_record(fd: int) -> Record | None:
    """What an open lock file says; None if that is nothing yet, or nothing of ours."""
    try:
        return Record.model_validate_json(os.pread(fd, 4096, 0))
    except ValidationError:
        return None


def read_record_at(path: Path) -> Record | None:
    """What a lock file says; None also where there is none. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return read_record(fd)
    finally:
        os.close(fd)


def write_record(fd: int, record: Record) -> None:
    """Replace the content of an open lock file. Raises OSError."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, record.model_dump_json().encode(), 0)


def _this_machine() -> str:
    """The host, since it was booted, and the container: hosts may share a name, and containers have pids of their own.

    Where there is no /proc it is the host's name.
    """
    marks = [platform.node()]
    with suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        marks.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(marks)


def _start_of(pid: int) -> str | None:
    """When a process of this machine began, "" where the system does not tell; None: it is gone, or only a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # another user's
    try:
        # What follows the command's name, which may hold anything: the state, and 19 fields later the start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in ("Z", "X") else fields[19]
