"""The rows of a gallery: the file of their embeddings, and the columns that filters need, in memory.

A vector file is named by its generation, and the records say which one is current. Compaction writes the next one and
then, in one transaction, the new row of every item and the new generation. Files of other generations were left by a
process that was killed.
"""

import logging
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deploy.gallery.records import REBUILD, Records, State
from deploy.gallery.vectors import VectorFile
from utils.errors import DataError

MAX_DEAD_SHARE = 0.5
"""Of the rows; if more belong to removed items, the file is compacted."""
COPIED_ROWS = 8192
"""Rows that are copied at a time."""

logger = logging.getLogger(__name__)


class Columns(NamedTuple):
    """The columns of N rows; immutable."""

    ids: np.ndarray
    """(N,) int64, ascending; undefined for a dead row."""
    camids: np.ndarray
    """(N,) int64."""
    times: np.ndarray
    """(N,) float64, Unix seconds."""
    is_alive: np.ndarray
    """(N,) bool; False for a removed item."""
    num_alive: int
    """Number of living rows."""

    def select(self, camids: Collection[int], start: float, end: float) -> np.ndarray | None:
        """(N,) bool, the living rows that pass the filters; None if all N do."""
        selected = None if self.num_alive == len(self.ids) else self.is_alive
        if camids:
            from_cameras = np.isin(self.camids, np.fromiter(camids, np.int64))
            selected = from_cameras if selected is None else selected & from_cameras
        if start > -np.inf or end < np.inf:
            in_time = (self.times >= start) & (self.times <= end) & (self.times != 0)
            selected = in_time if selected is None else selected & in_time
        return selected

    def append(self, ids: Sequence[int], camids: Sequence[int], times: Sequence[float]) -> "Columns":
        """These rows and more living ones."""
        return Columns(
            np.append(self.ids, np.array(ids, np.int64)),
            np.append(self.camids, np.array(camids, np.int64)),
            np.append(self.times, np.array(times, np.float64)),
            np.append(self.is_alive, np.ones(len(ids), bool)),
            self.num_alive + len(ids),
        )

    def kill(self, rows: Sequence[int]) -> "Columns":
        """These rows, of which some living ones are dead now."""
        is_alive = self.is_alive.copy()
        is_alive[list(rows)] = False
        return self._replace(is_alive=is_alive, num_alive=self.num_alive - len(rows))


def open_rows(folder: Path, records: Records, dim: int) -> tuple[VectorFile, Columns]:
    """The embeddings, each compared with its checksum, and the columns; compacts the file if too many rows are dead.

    Raises:
        DataError: records and embeddings are damaged, or do not belong together.
    """
    vectors = VectorFile(_file(folder, records.state.generation), dim, records.state.rows)
    try:
        columns = _read_columns(records, vectors)
        state = records.state
        if state.rows - state.num_items > MAX_DEAD_SHARE * state.rows:
            vectors, columns = _compact(folder, records, vectors, columns)
        for path in folder.iterdir():
            stem, _, generation = path.stem.partition("-")
            is_ours = (stem, path.suffix) in (("vectors", ".f32"), ("index", ".faiss"), ("index", ".json"))
            if is_ours and generation != str(records.state.generation):
                path.unlink(missing_ok=True)
    except BaseException:
        vectors.close()
        raise
    return vectors, columns


def _read_columns(records: Records, vectors: VectorFile) -> Columns:
    state = records.state
    rows = vectors.rows(state.rows)
    ids = np.full(state.rows, -1, np.int64)
    camids, times = np.zeros(state.rows, np.int64), np.zeros(state.rows)
    is_alive = np.zeros(state.rows, bool)
    last_row = -1
    for id_, entry in records.entries():
        row = entry.row
        if not last_row < row < state.rows or id_ >= state.next_id:
            raise DataError(f"{records.path}: damaged: item {id_} of {state.next_id} in row {row}; {REBUILD}")
        if zlib.crc32(rows[row]) != entry.checksum:
            raise DataError(f"{vectors.path}: damaged: row {row} does not match its checksum; {REBUILD}")
        ids[row], camids[row], times[row], is_alive[row] = id_, entry.item.camid, entry.item.time, True
        last_row = row
    if (np.count_nonzero(is_alive), records.num_names()) != (state.num_items, state.num_items):
        raise DataError(f"{records.path}: damaged: the number of items is not {state.num_items}; {REBUILD}")
    return Columns(ids, camids, times, is_alive, state.num_items)


def _compact(folder: Path, records: Records, vectors: VectorFile, columns: Columns) -> tuple[VectorFile, Columns]:
    """Write the living rows to a new file, and make it current."""
    state = records.state
    after = State(state.generation + 1, state.num_items, state.next_id, state.num_items)
    path = _file(folder, after.generation)
    path.unlink(missing_ok=True)
    living = np.flatnonzero(columns.is_alive)
    new = VectorFile(path, vectors.dim, 0)
    try:
        for first in range(0, len(living), COPIED_ROWS):
            new.write(first, vectors.rows(state.rows)[living[first : first + COPIED_ROWS]])
        records.renumber_rows(after)
    except BaseException:
        new.close()
        raise
    vectors.close()
    logger.info("%s: compacted: %d removed embeddings dropped", folder, state.rows - state.num_items)
    ids, camids, times, is_alive = (column[living] for column in columns[:4])
    return new, Columns(ids, camids, times, is_alive, state.num_items)


def _file(folder: Path, generation: int) -> Path:
    return folder / f"vectors-{generation}.f32"
