"""Disks for tests: small ones that can be filled, emptied and made read-only while a program writes to them."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A file system of its own under `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / ".ballast"

    def fill(self, leave: int = 0) -> None:
        """Leave room for so many bytes only, in whole pages."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                _write_until_full(file.fileno(), bytes(size))
            file.truncate(file.tell() - leave)

    def free(self) -> None:
        """Give back what `fill` took."""
        self._ballast.unlink(missing_ok=True)

    def read_only(self, wanted: bool) -> None:
        """Mount it again, read-only or as it was.

        Raises:
            CalledProcessError: it cannot become read-only as long as a file is open for writing.
        """
        options = f"remount,{'ro' if wanted else 'rw'}"
        subprocess.run(["mount", "-o", options, str(self.path)], check=True, capture_output=True)


@contextmanager
def small_disk(path: Path, size: str = "2m") -> Iterator[SmallDisk]:
    """A new, empty disk mounted at `path` for the time of the block; the test is skipped where that is not allowed."""
    path.mkdir(parents=True)
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        pytest.skip(f"a small disk cannot be mounted here: {reason}")
    try:
        yield SmallDisk(path)
    finally:
        # A test that failed may have left a file open.
        subprocess.run(["umount", "--lazy", str(path)], check=True, capture_output=True)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes within this block: a write then takes what still fits.

    What pytest has captured of the output counts as well, so print little.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _write_until_full(descriptor: int, content: bytes) -> None:
    try:
        while True:
            os.write(descriptor, content)
    except OSError:
        return
