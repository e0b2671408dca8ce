"""A file of embeddings, one behind the other, mapped into memory."""

import mmap
import os
from pathlib import Path

import numpy as np

from deploy.gallery.records import MAKE_ANEW, sync_folder
from utils.errors import DataError, with_advice

CHUNK = 2**26
"""Bytes the file grows by; those not yet written take no room on the disk."""
DTYPE = np.dtype("<f4")


class VectorFile:
    """Rows of float32 to read at once and to append to. What lies behind the rows that count is overwritten.

    Args:
        path: made if missing.
        dim: D.
        rows: how many count.
        chunk: bytes the file grows by.

    Raises:
        DataError: it is shorter than the rows that count, or cannot be read or made.
    """

    def __init__(self, path: Path, dim: int, rows: int, chunk: int = CHUNK) -> None:
        self.path, self.dim = path, dim
        self._row_bytes, self._chunk = dim * DTYPE.itemsize, chunk
        try:
            is_new = not path.exists()
            if is_new and rows:
                raise DataError(f"{path}: is missing; {MAKE_ANEW}")
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if is_new:
                sync_folder(path.parent)
        except OSError as error:
            raise DataError(f"{path}: cannot be opened: {with_advice(error)}") from error
        try:
            size = os.fstat(self._fd).st_size
            if size < rows * self._row_bytes:
                raise DataError(
                    f"{path}: cut short: {size:,} bytes, where {rows:,} embeddings of {dim} numbers take "
                    f"{rows * self._row_bytes:,}; {MAKE_ANEW}"
                )
            self._map()
        except BaseException:
            os.close(self._fd)
            raise

    def rows(self, stop: int) -> np.ndarray:
        """The first rows: (stop, D) float32, read-only; valid for as long as it is used, whatever is appended."""
        return self._mapped[:stop]

    def write(self, first: int, vectors: np.ndarray) -> None:
        """Write (N, D) float32 as the rows from `first` on, and wait until they are on the disk.

        Raises:
            DataError: the disk is full.
        """
        content = memoryview(np.ascontiguousarray(vectors, DTYPE)).cast("B")  # pyright: ignore[reportArgumentType]
        place = first * self._row_bytes
        try:
            end = place + len(content)
            if end > os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, -(-end // self._chunk) * self._chunk)
            # Through the file, not the mapping: on a full disk a write to that would kill the process.
            while content:
                written = os.pwrite(self._fd, content, place)
                content, place = content[written:], place + written
            os.fdatasync(self._fd)
            if end > self._mapped.nbytes:
                self._map()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {with_advice(error)}") from error

    def close(self) -> None:
        """Close the file; rows handed out stay readable."""
        os.close(self._fd)

    def _map(self) -> None:
        num_rows = os.fstat(self._fd).st_size // self._row_bytes
        if num_rows == 0:
            self._mapped = np.empty((0, self.dim), DTYPE)
            return
        mapping = mmap.mmap(self._fd, num_rows * self._row_bytes, access=mmap.ACCESS_READ)
        self._mapped = np.frombuffer(mapping, DTYPE).reshape(num_rows, self.dim)
