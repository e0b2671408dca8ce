"""What filters need of every row, in memory."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np


class Columns(NamedTuple):
    """Of N rows; a later change of the table does not show."""

    ids: np.ndarray
    """(N,) int64, ascending; that of a dead row means nothing."""
    camids: np.ndarray
    """(N,) int64."""
    times: np.ndarray
    """(N,) float64, Unix seconds."""
    is_alive: np.ndarray
    """(N,) bool; of a removed item False."""
    num_living: int
    """Living rows."""

    def wanted(self, camids: Collection[int], start: float, end: float) -> np.ndarray | None:
        """(N,) bool, the living rows that pass the filters; None if all N do."""
        wanted = None if self.num_living == len(self.ids) else self.is_alive
        if camids:
            from_cameras = np.isin(self.camids, np.fromiter(camids, np.int64))
            wanted = from_cameras if wanted is None else wanted & from_cameras
        if start > -np.inf or end < np.inf:
            in_time = (self.times >= start) & (self.times <= end) & (self.times != 0)
            wanted = in_time if wanted is None else wanted & in_time
        return wanted


class Table:
    """The columns, which grow. Not for several threads at once; the columns handed out are for any.

    Args:
        columns: to begin with.
    """

    def __init__(self, columns: Columns) -> None:
        self._full = columns[:4]
        self._num_rows, self._count = len(columns.ids), columns.num_living

    def columns(self) -> Columns:
        """As they are now."""
        ids, camids, times, is_alive = (column[: self._num_rows] for column in self._full)
        return Columns(ids, camids, times, is_alive, self._count)

    def append(self, ids: Sequence[int], camids: Sequence[int], times: Sequence[float]) -> None:
        """Add living rows."""
        stop = self._num_rows + len(ids)
        if stop > len(self._full[0]):
            more = max(1024, stop)
            self._full = tuple(np.concatenate([column, np.zeros(more, column.dtype)]) for column in self._full)
        # Columns handed out end before these rows.
        for column, values in zip(self._full, (ids, camids, times, True), strict=True):
            column[self._num_rows : stop] = values
        self._num_rows, self._count = stop, self._count + len(ids)

    def kill(self, rows: Sequence[int]) -> None:
        """Mark rows as dead that are alive."""
        is_alive = self._full[3].copy()  # those handed out do not change
        is_alive[list(rows)] = False
        self._full = (*self._full[:3], is_alive)
        self._count -= len(rows)
