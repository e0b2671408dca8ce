"""A file of consecutive embeddings, mapped into memory."""

import mmap
import os
from pathlib import Path

import numpy as np

from deploy.gallery.records import REBUILD, sync_folder
from utils.errors import DataError, with_advice

CHUNK = 2**26
"""Bytes the file grows by; it is sparse, so unwritten ones take no disk space."""
DTYPE = np.dtype("<f4")


class VectorFile:
    """Rows of float32 that can be appended to; bytes after the valid rows are overwritten.

    Args:
        path: created if missing.
        dim: D.
        rows: number of valid rows.

    Raises:
        DataError: it is shorter than the valid rows, or cannot be read or created.
    """

    def __init__(self, path: Path, dim: int, rows: int) -> None:
        self.path, self.dim = path, dim
        self._row_bytes = dim * DTYPE.itemsize
        try:
            is_new = not path.exists()
            if is_new and rows:
                raise DataError(f"{path}: is missing; {REBUILD}")
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if is_new:
                sync_folder(path.parent)
        except OSError as error:
            raise DataError(f"{path}: cannot be opened: {with_advice(error)}") from error
        try:
            size = os.fstat(self._fd).st_size
            if size < rows * self._row_bytes:
                raise DataError(
                    f"{path}: truncated: {size:,} bytes, but {rows:,} embeddings of size {dim} take "
                    f"{rows * self._row_bytes:,}; {REBUILD}"
                )
            self._map()
        except BaseException:
            os.close(self._fd)
            raise

    def rows(self, stop: int) -> np.ndarray:
        """The first rows: (stop, D) float32, read-only; stays valid when rows are appended."""
        return self._mapped[:stop]

    def write(self, first: int, vectors: np.ndarray) -> None:
        """Write (N, D) float32 as the rows from `first` on, and sync them to disk.

        Raises:
            DataError: the disk is full.
        """
        content = memoryview(np.ascontiguousarray(vectors, DTYPE)).cast("B")  # pyright: ignore[reportArgumentType]
        place = first * self._row_bytes
        try:
            end = place + len(content)
            if end > os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, -(-end // CHUNK) * CHUNK)
            # Not through the mapping: on a full disk a write to it would kill the process.
            while content:
                written = os.pwrite(self._fd, content, place)
                content, place = content[written:], place + written
            os.fdatasync(self._fd)
            if end > self._mapped.nbytes:
                self._map()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {with_advice(error)}") from error

    def close(self) -> None:
        """Close the file; returned rows stay readable."""
        os.close(self._fd)

    def _map(self) -> None:
        num_rows = os.fstat(self._fd).st_size // self._row_bytes
        if num_rows == 0:
            self._mapped = np.empty((0, self.dim), DTYPE)
            return
        mapping = mmap.mmap(self._fd, num_rows * self._row_bytes, access=mmap.ACCESS_READ)
        self._mapped = np.frombuffer(mapping, DTYPE).reshape(num_rows, self.dim)
