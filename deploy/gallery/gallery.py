"""Embeddings of images with name, camera and time in a table of Lance, and the search for the nearest."""

import functools
import logging
import operator
import os
import re
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import inf
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from pyarrow.compute import Expression, field

from deploy.gallery.items import Item, Match, NameTakenError, UnknownIdError, decode_name, encode_name
from utils.errors import DataError, first_line, with_advice

__all__ = ["Gallery", "Item", "Match", "NameTakenError", "UnknownIdError"]

INDEX_ROWS = 200_000
"""Number of images from which an index is built."""
UNINDEXED_SHARE = 0.05
"""The index is extended when it lacks a larger share of the images; until then they are compared exactly."""
CANDIDATES = 10
"""For each result that is found with the index."""
OPTIMIZE_EVERY, ROWS_PER_CHANGE = 64, 1024
"""Changes after which files are merged and the index is built or extended; so many rows count as another change."""
SMALL_ROWS, LARGE_ROWS, MANY_FILES = 2**10, 2**20, 256
"""Files of few rows are merged; if there are many files, so are larger ones."""
CLEANUP = {"interval": 100, "older_than_seconds": 900}
"""After so many versions of the table, older ones than this are removed."""
CACHES = 2**30, 2**28
"""Bytes of the index and of metadata that are kept in memory."""
STORE = {"connect_timeout": "3s", "timeout": "10s", "client_retry_timeout": "10"}
"""Limits of a request to an object store, which is tried six times."""
LENGTH_TOLERANCE = 1e-5
"""Largest difference of a vector's length from 1."""
ITEM = ["name", "camid", "time", "stamp"]

logger = logging.getLogger(__name__)


class Gallery(AbstractContextManager["Gallery"]):
    """An index of images by their embeddings, for any number of threads, and of processes that are not forked.

    A change is seen by every process when `add` or `remove` returns, and survives a kill; a kill before leaves all or
    nothing of it. Several processes may write: names and ids stay unique.

    Searches are exact up to `index_rows` images. Above that, an index (IVF-RQ) finds candidates, whose distances are
    exact: near images may be missed.

    Args:
        place: of the index: a folder, created if missing, or a URI such as "s3://bucket/gallery".
        dim: D, size of the embeddings.
        model: identifies the model; embeddings of different models cannot be compared.
        index_rows: number of images from which an index is built.

    Raises:
        DataError: the index is of another model, or cannot be read or created.
    """

    def __init__(self, place: Path | str, dim: int, model: str, *, index_rows: int = INDEX_ROWS) -> None:
        self.dim, self.index_rows, self._uri = dim, index_rows, f"{place}/gallery.lance"
        fields = [
            # Lance's conflict detection then admits a name once, whatever number of processes write.
            pa.field("name", pa.string(), False, {"lance-schema:unenforced-primary-key": "true"}),
            pa.field("camid", pa.int64(), False),
            pa.field("time", pa.float64(), False),
            pa.field("stamp", pa.string(), False),
            pa.field("vector", pa.list_(pa.float32(), dim), False),
            pa.field("crop", pa.binary()),
        ]
        self._schema = pa.schema(fields, {"format": "1", "embedding size": str(dim), "model": model})
        self._options: dict[str, Any] = {"session": lance.Session(*CACHES)}  # pyright: ignore[reportPrivateImportUsage]
        if "://" in self._uri:
            self._options["storage_options"] = STORE
        self._write_lock, self._num_changes = threading.Lock(), 0
        with self._table("opened", create=True) as table:
            found = table.schema.metadata or {}
        for key, own in (self._schema.metadata or {}).items():
            theirs = found.get(key, b"unknown")
            if theirs != own:
                raise DataError(
                    f"{self._uri}: its {key.decode()} is {theirs.decode()}, but {own.decode()} is in use; use that "
                    "model, or another place for the index"
                )

    def __exit__(self, *_: object) -> None:
        pass

    def __len__(self) -> int:
        with self._table("read") as table:
            return table.count_rows()

    def add(self, vectors: np.ndarray, items: Sequence[Item], images: Sequence[bytes] = ()) -> list[int]:
        """Add images.

        Args:
            vectors: (N, D) float32 of unit length.
            items: name, camera and time of each.
            images: encoded images to store, one for each item; () = none.

        Returns:
            Their ids, which are not reused.

        Raises:
            NameTakenError: there is an item of the same name.
            DataError: the disk is full, or the store cannot be reached.
            ValueError: wrong shapes or numbers, vectors not of unit length, equal or invalid names.
        """
        names = [encode_name(item.name) for item in items]
        together = zip(items, names, self._checked(vectors), images or [None] * len(items), strict=True)
        rows = [
            {**item._asdict(), "name": name, "vector": vector, "crop": image} for item, name, vector, image in together
        ]
        if len(set(names)) < len(names):
            raise ValueError("names: several items have the same name")
        if not rows:
            return []
        added = pa.Table.from_pylist(rows, self._schema)
        with self._write_lock, self._table("written") as table:
            try:
                table.merge_insert("name").when_matched_fail().when_not_matched_insert_all().execute(added)
            except OSError:
                table.checkout_latest()
                if taken := _rows(table, ["name"], field("name").isin(names)):
                    name = decode_name(taken[0]["name"])
                    message = f"{name}: is in the gallery already; remove it first, or take another name"
                    raise NameTakenError(message) from None
                raise
            ids = {row["name"]: row["_rowid"] for row in _rows(table, ["name"], field("name").isin(names))}
        self._optimize_sometimes(1 + len(names) // ROWS_PER_CHANGE)
        return [ids[name] for name in names]

    def remove(self, ids: Sequence[int]) -> None:
        """Remove images; none if there is no such id, which raises an UnknownIdError."""
        if not ids:
            return
        with self._write_lock, self._table("written") as table:
            if unknown := set(ids) - {row["_rowid"] for row in _rows(table, ["camid"], _with_ids(ids))}:
                raise UnknownIdError(min(unknown))
            table.delete(_with_ids(ids))
        self._optimize_sometimes(1)

    def search(
        self, queries: np.ndarray, k: int, *, camids: Collection[int] = (), start: float = -inf, end: float = inf
    ) -> list[list[Match]]:
        """The images nearest to each query.

        Args:
            queries: (Q, D) float32 of unit length.
            k: number of matches, if there are as many images.
            camids: only images of these cameras; () = all.
            start, end: only images taken in this span, Unix seconds, inclusive; images of unknown time are in no span.

        Returns:
            For each query its matches, nearest first; of equal distances the lower id first.
        """
        found: list[list[Match]] = [[] for _ in self._checked(queries)]
        if k < 1:
            raise ValueError(f"k: at least 1 expected, got {k}")
        if not found:
            return found
        conditions = [field("camid").isin(list(camids))] if camids else []
        if start > -inf or end < inf:
            conditions += [field("time") != 0, field("time") >= start, field("time") <= end]
        wanted = functools.reduce(operator.and_, conditions) if conditions else None
        nearest = {"column": "vector", "q": queries, "k": k, "metric": "l2", "refine_factor": CANDIDATES}
        with self._table("read") as table:
            rows = _rows(table, [*ITEM, "_distance"], wanted, nearest=nearest, prefilter=True)
        for row in rows:
            # Half the squared difference of unit vectors is 1 - cosine, but exactly 0 between equal ones.
            found[row["query_index"]].append(Match(row["_rowid"], _item(row), row["_distance"] / 2))
        return [sorted(matches, key=lambda match: (match.distance, match.id)) for matches in found]

    def item(self, id: int) -> Item:
        """Name, camera and time of an image; raises an UnknownIdError if there is no such id."""
        return _item(self._row(id, ITEM))

    def vector(self, id: int) -> np.ndarray:
        """The embedding of an image, (D,) float32; raises an UnknownIdError if there is no such id."""
        return np.array(self._row(id, ["vector"])["vector"], np.float32)

    def image(self, id: int) -> bytes | None:
        """The stored image, or None; raises an UnknownIdError if there is no such id."""
        return self._row(id, ["crop"])["crop"]

    def items(self) -> dict[int, Item]:
        """All items by id, in the order of the ids."""
        with self._table("read") as table:
            return dict(sorted((row["_rowid"], _item(row)) for row in _rows(table, ITEM)))

    def cameras(self) -> list[int]:
        """The cameras of the images, sorted."""
        with self._table("read") as table:
            return np.unique(table.to_table(columns=["camid"])["camid"].to_numpy()).tolist()

    def optimize(self) -> None:
        """Merge small files, and build or extend the index; `add` and `remove` do so from time to time.

        Raises:
            DataError: the disk is full, the store cannot be reached, or another process does the same.
        """
        with self._table("optimized") as table:
            has_many = len(table.get_fragments()) > MANY_FILES
            table.optimize.compact_files(target_rows_per_fragment=LARGE_ROWS if has_many else SMALL_ROWS)
            num_rows = table.count_rows()
            num_indexed = sum(index.num_rows_indexed for index in table.describe_indices())
            if num_indexed == 0 and num_rows >= self.index_rows:
                table.create_index("vector", "IVF_RQ", metric="l2")
            elif num_indexed and num_rows - num_indexed > UNINDEXED_SHARE * num_rows:
                table.optimize.optimize_indices()

    def _optimize_sometimes(self, num_changes: int) -> None:
        self._num_changes += num_changes
        if self._num_changes < OPTIMIZE_EVERY:
            return
        self._num_changes = 0
        try:
            self.optimize()
        except DataError as error:
            logger.warning("%s; it will be tried again", error)

    def _row(self, id_: int, columns: list[str]) -> dict[str, Any]:
        with self._table("read") as table:
            for row in _rows(table, columns, _with_ids([id_])):
                return row
        raise UnknownIdError(id_)

    @contextmanager
    def _table(self, purpose: str, create: bool = False) -> Iterator[lance.LanceDataset]:
        """The newest version of the table; Lance's errors within the block become a DataError."""
        try:
            if create:
                self._create()
            yield lance.dataset(self._uri, **self._options)
        except (OSError, ValueError, RuntimeError) as error:
            # Lance appends the lines of its source; the system's errors are known by their number.
            reason = re.sub(r"(, \S+\.rs:\d+:\d+)+$", "", first_line(error))
            if match := re.search(r"\(os error (\d+)\)", str(error)):
                reason = with_advice(OSError(int(match[1]), os.strerror(int(match[1]))))
            raise DataError(f"{self._uri}: cannot be {purpose}: {reason}") from error

    def _create(self) -> None:
        # The ids of images are Lance's stable row ids.
        new = {"enable_stable_row_ids": True, "auto_cleanup_options": CLEANUP}
        try:
            lance.write_dataset(self._schema.empty_table(), self._uri, **new, **self._options)
        except OSError as error:
            if "already exists" not in str(error):
                raise

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        if vectors.dtype != np.float32 or vectors.shape[1:] != (self.dim,):
            raise ValueError(f"vectors: expected float32 (N, {self.dim}), got {vectors.dtype} {vectors.shape}")
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        if not (np.abs(lengths - 1) <= LENGTH_TOLERANCE).all():
            raise ValueError(f"vectors: expected unit length, got {lengths}")
        return vectors


def _rows(
    table: lance.LanceDataset, columns: list[str], wanted: Expression | str | None = None, **options: Any
) -> list[dict[str, Any]]:
    return table.to_table(columns=columns, filter=wanted, with_row_id=True, **options).to_pylist()


def _with_ids(ids: Sequence[int]) -> str:
    """The filter of rows with these ids; there are none below 0 or of more than 63 bits."""
    return f"_rowid IN ({', '.join(str(id_) for id_ in ids if 0 <= id_ < 2**63) or 'NULL'})"


def _item(row: dict[str, Any]) -> Item:
    return Item(decode_name(row["name"]), row["camid"], row["time"], row["stamp"])
