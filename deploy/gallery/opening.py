"""Bringing a gallery's files together when it is opened: checked against one another, and without too many dead rows.

A vector file is named by its generation, and the records say which one counts. Compaction writes the next one beside
it and then, in one transaction, the new row of every item and the new generation. Files of other generations are what
a killed process has left.
"""

import logging
import zlib
from pathlib import Path

import numpy as np

from deploy.gallery.records import MAKE_ANEW, Records, State
from deploy.gallery.table import Columns, Table
from deploy.gallery.vectors import VectorFile
from utils.errors import DataError

DEAD_SHARE = 0.5
"""Of the rows; where more belong to removed items, the file is written anew."""
AT_ONCE = 8192
"""Rows that are copied at a time."""

logger = logging.getLogger(__name__)


def open_rows(folder: Path, records: Records, dim: int) -> tuple[VectorFile, Table]:
    """The embeddings, every one compared with its checksum, and the columns of the table.

    Raises:
        DataError: records and embeddings do not belong together, or are damaged.
    """
    vectors = VectorFile(_file(folder, records.state.generation), dim, records.state.rows)
    try:
        columns = _read_columns(records, vectors)
        state = records.state
        if state.rows - state.num_items > DEAD_SHARE * state.rows:
            vectors, columns = _compact(folder, records, vectors, columns)
        _remove_others(folder, records.state.generation)
    except BaseException:
        vectors.close()
        raise
    return vectors, Table(columns)


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
            raise DataError(f"{records.path}: damaged: item {id_} of {state.next_id} in row {row}; {MAKE_ANEW}")
        if zlib.crc32(rows[row]) != entry.checksum:
            raise DataError(f"{vectors.path}: damaged: row {row} is not what was written; {MAKE_ANEW}")
        ids[row], camids[row], times[row], is_alive[row] = id_, entry.item.camid, entry.item.time, True
        last_row = row
    if (np.count_nonzero(is_alive), records.num_names()) != (state.num_items, state.num_items):
        raise DataError(f"{records.path}: damaged: holds other than {state.num_items} items; {MAKE_ANEW}")
    return Columns(ids, camids, times, is_alive, state.num_items)


def _compact(folder: Path, records: Records, vectors: VectorFile, columns: Columns) -> tuple[VectorFile, Columns]:
    """Write the living rows to a new file, and make that count."""
    state = records.state
    after = State(state.generation + 1, state.num_items, state.next_id, state.num_items)
    path = _file(folder, after.generation)
    path.unlink(missing_ok=True)
    living = np.flatnonzero(columns.is_alive)
    new = VectorFile(path, vectors.dim, 0)
    try:
        for first in range(0, len(living), AT_ONCE):
            new.write(first, vectors.rows(state.rows)[living[first : first + AT_ONCE]])
        records.renumber_rows(after)
    except BaseException:
        new.close()
        raise
    vectors.close()
    logger.info("%s: written anew without %d removed embeddings", folder, state.rows - state.num_items)
    ids, camids, times, is_alive = (column[living] for column in columns[:4])
    return new, Columns(ids, camids, times, is_alive, state.num_items)


def _remove_others(folder: Path, generation: int) -> None:
    """Files of other generations."""
    for stem, suffixes in (("vectors", [".f32"]), ("index", [".faiss", ".json"])):
        for path in sorted(folder.glob(f"{stem}-*")):
            if path.suffix in suffixes and path.stem != f"{stem}-{generation}":
                path.unlink(missing_ok=True)


def _file(folder: Path, generation: int) -> Path:
    return folder / f"vectors-{generation}.f32"
