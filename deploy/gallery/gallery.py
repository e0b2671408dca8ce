"""Embeddings of images with name, camera and time in a table of Lance, and the search for the nearest."""

import errno
import functools
import logging
import operator
import re
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import lance
import numpy as np
import pyarrow as pa
from pyarrow.compute import field

from deploy.gallery.items import Item, Match, NameTakenError, NoSpaceError, UnknownIdError, ZeroEmbeddingError
from utils.errors import DataError, first_line

INDEX_ROWS = 200_000  # images from which an index is built
UNINDEXED_SHARE = 0.05  # of the images that the index lacks; a larger share is added to it
CANDIDATES = 10  # that the index finds for each result
OPTIMIZE_EVERY = 64  # versions of the table
BATCH_ROWS = 1024  # that are compared at a time: 2 MiB, which a CPU's cache holds
FILE_ROWS = 8192  # smaller files are merged
CLEANUP = {"interval": 100, "older_than_seconds": 900}  # after so many versions, versions older than this are removed
CACHES = 2**30, 2**28  # bytes of the index and of metadata that are kept in memory
STORE = {"connect_timeout": "3s", "timeout": "10s", "client_retry_timeout": "10"}  # of each of six tries
FULL = errno.ENOSPC, errno.EDQUOT  # the system's numbers of errors: no space left, or more than a user may have
ITEM = ["name", "camid", "time", "stamp"]
logger = logging.getLogger(__name__)


class Gallery(AbstractContextManager["Gallery"]):
    """An index of images by their embeddings, for any number of threads, and of processes that are not forked.

    A change is seen by every process and survives a kill when `add` or `remove` returns; a kill before leaves all or
    nothing of it. Several processes may write: names and ids stay unique. Up to `index_rows` images searches are exact.
    Above that, an index (IVF-RQ) finds candidates, whose distances are exact: near images may be missed.

    Args:
        place: of the index: a folder, created if missing, or a URI such as "s3://bucket/gallery".
        dim: D, size of the embeddings.
        model: identifies the model; embeddings of different models cannot be compared.
        index_rows: number of images from which an index is built.

    Raises:
        DataError: the index is of another model, or cannot be read or created.
    """

    def __init__(self, place: Path | str, dim: int, model: str, *, index_rows: int = INDEX_ROWS) -> None:
        self.index_rows, self._uri = index_rows, f"{place}/gallery.lance"
        # Lance's conflict detection admits each name once, whatever number of processes write.
        name = pa.field("name", pa.string(), False, {"lance-schema:unenforced-primary-key": "true"})
        columns = {"camid": pa.int64(), "time": pa.float64(), "stamp": pa.string(), "crop": pa.binary()}
        columns["vector"] = pa.list_(pa.float32(), dim)
        own = f"embeddings of size {dim} of the model {model} (format 1)"
        self._schema = pa.schema([name, *columns.items()], {"gallery": own})
        session = lance.Session(*CACHES)  # pyright: ignore[reportPrivateImportUsage]
        self._options: Any = {"session": session, "storage_options": STORE if "://" in self._uri else None}
        self._write_lock = threading.Lock()
        with self._table("opened", create=True) as table:
            theirs = (table.schema.metadata or {}).get(b"gallery", b"another table").decode()
        if theirs != own:
            raise DataError(f"{self._uri}: holds {theirs}, but {own} are needed; name another place for the index")

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
            NoSpaceError: the disk is full.
            DataError: the store cannot be reached or written.
            ValueError: wrong shapes or numbers, vectors not of unit length, equal or invalid names.
        """
        rows = [
            {**item._asdict(), "name": _encoded(item.name), "vector": vector, "crop": image}
            for item, vector, image in zip(items, _checked(vectors), images or [None] * len(items), strict=True)
        ]
        if not rows:
            return []
        names = [row["name"] for row in rows]
        if len(set(names)) < len(names):
            raise ValueError("names: several items have the same name")
        added, named = pa.Table.from_pylist(rows, self._schema), field("name").isin(names)
        with self._write_lock, self._table("written") as table:
            try:
                table.merge_insert("name").when_matched_fail().when_not_matched_insert_all().execute(added)
            except OSError:
                table.checkout_latest()
                for row in _rows(table, ["name"], named):
                    raise NameTakenError(f"{row['name']}: is in the gallery already; take another name") from None
                raise
            ids = {row["name"]: row["_rowid"] for row in _rows(table, ["name"], named)}
            self._optimize_sometimes(table.version)
        return [ids[name] for name in names]

    def remove(self, ids: Sequence[int]) -> None:
        """Remove images; none if there is no such id, which raises an UnknownIdError."""
        if not ids:
            return
        with self._write_lock, self._table("written") as table:
            if unknown := set(ids) - {row["_rowid"] for row in _rows(table, ["camid"], _with_ids(ids))}:
                raise UnknownIdError(min(unknown))
            table.delete(_with_ids(ids))
            self._optimize_sometimes(table.version)

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
        found: list[list[Match]] = [[] for _ in _checked(queries)]
        if not found:
            return found
        conditions = [field("camid").isin(list(camids))] if camids else []
        if start > -inf or end < inf:
            conditions += [field("time") != 0, field("time") >= start, field("time") <= end]
        wanted = functools.reduce(operator.and_, conditions) if conditions else None
        nearest = {"column": "vector", "q": queries, "k": k, "metric": "l2", "refine_factor": CANDIDATES}
        with self._table("read") as table:
            rows = _rows(table, [*ITEM, "_distance"], wanted, nearest=nearest, prefilter=True, batch_size=BATCH_ROWS)
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
        """Merge small files, and build or extend the index; `add` and `remove` do so from time to time."""
        with self._table("optimized") as table:
            table.optimize.compact_files(target_rows_per_fragment=FILE_ROWS)
            num_rows = table.count_rows()
            num_indexed = sum(index.num_rows_indexed for index in table.describe_indices())
            if num_indexed == 0 and num_rows >= self.index_rows:
                table.create_index("vector", "IVF_RQ", metric="l2")
            elif num_indexed and num_rows - num_indexed > UNINDEXED_SHARE * num_rows:
                table.optimize.optimize_indices()

    def _optimize_sometimes(self, version: int) -> None:
        if version % OPTIMIZE_EVERY == 0:
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
            reason = re.sub(r", /\S+\.rs:.*", "", first_line(error))  # Lance names the lines of its source
            kind = NoSpaceError if any(f"os error {number}" in str(error) for number in FULL) else DataError
            raise kind(f"{self._uri}: cannot be {purpose}: {reason}") from error

    def _create(self) -> None:
        new = {"enable_stable_row_ids": True, "auto_cleanup_options": CLEANUP}  # these are the ids of the images
        try:
            lance.write_dataset(self._schema.empty_table(), self._uri, **new, **self._options)
        except OSError as error:
            if "already exists" not in str(error):
                raise


def _rows(table: lance.LanceDataset, columns: list[str], wanted: Any = None, **options: Any) -> list[dict[str, Any]]:
    return table.to_table(columns=columns, filter=wanted, with_row_id=True, **options).to_pylist()


def _with_ids(ids: Sequence[int]) -> str:
    return f"_rowid IN ({', '.join(str(id_) for id_ in ids if 0 <= id_ < 2**63) or 'NULL'})"


def _checked(vectors: np.ndarray) -> np.ndarray:
    if not np.any(vectors, axis=1).all():
        raise ZeroEmbeddingError("the embedding of the image is 0, which has no neighbours")
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=1e-5):
        raise ValueError("vectors: expected unit length")
    return vectors


def _encoded(name: str) -> str:
    """As valid Unicode: bytes of a file name that are not UTF-8, and %, become %XX."""
    return re.sub("[%\udc80-\udcff]", lambda match: f"%{ord(match[0]) & 0xFF:02X}", name)


def _item(row: dict[str, Any]) -> Item:
    return Item(unquote(row["name"], errors="surrogateescape"), row["camid"], row["time"], row["stamp"])
