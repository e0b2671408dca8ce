"""A seal over the index of an LMDB file, without which a damaged file can kill the process that reads it.

LMDB believes what its pages say: where a bit of them has changed it may read past the end of the file, or call abort().
So the file ends with the places of all bytes that LMDB finds its way by and with their checksum, which is compared
before LMDB sees the file. The images' bytes are not among them: each image has a checksum of its own.

Source: the structures MDB_meta, MDB_db, MDB_page and MDB_node of LMDB 0.9's mdb.c.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from data.lmdb_format import IMAGES, seal, to_json, unseal

Span = tuple[int, int]
"""Bytes of a file or page: the first, and that after the last."""

_END = b"reid-end"
_TAIL = struct.Struct(f">Q{len(_END)}s")
"""The file's last bytes: length of the record before, and these letters."""

_NUM_METAS = 2
_PAGE_SIZE, _MAIN_ROOT, _TRANSACTION = struct.Struct("=40xI"), struct.Struct("=128xQ"), struct.Struct("=144xQ")
"""Numbers in a meta page: size of a page, root of the main database, number of the transaction that wrote it."""
_HEADER = struct.Struct("=10xHH2x")
"""Of a page: its flags, and where the list of its nodes ends."""
_NODE = struct.Struct("=HHHH")
"""Of a node: the value's size (low, high; in a branch, with the flags, the page below), flags, size of the key."""
_ROOT = struct.Struct("=40xQ")
"""In the description of a database: its root."""
_BRANCH = 0x01
_ELSEWHERE, _DATABASE = 0x01, 0x02
"""Flags of nodes whose value is the number of the page where it lies, or the description of a database."""
_EMPTY = 2**64 - 1
"""The root of a database without records."""


def append_seal(path: Path, num_pages: int) -> None:
    """Seal a file that LMDB has closed.

    Args:
        num_pages: branch and leaf pages of its databases, as LMDB counts them.

    Raises:
        RuntimeError: other pages are found than LMDB counts, so it does not arrange its files as is known here.
    """
    with path.open("r+b") as file:
        pages = sorted(_pages(file))
        if len(pages) != num_pages:
            raise RuntimeError(f"{len(pages)} pages found in an LMDB of {num_pages}")
        spans = list(_joined([(0, _NUM_METAS * _page_size(file)), *(span for page in pages for span in page)]))
        fields = {"size": file.seek(0, os.SEEK_END), "spans": spans, "checksum": _checksum(file, spans)}
        record = seal(_END, to_json(fields))
        file.seek(0, os.SEEK_END)
        file.write(record + _TAIL.pack(len(record), _END))


def why_unsafe(path: Path) -> str:
    """What is wrong with a file, so that LMDB must not open it; "" if nothing is. Reads a few percent of the file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) - _TAIL.size
        length, letters = _TAIL.unpack(_read(file, (end, end + _TAIL.size))) if end >= 0 else (0, b"")
        if letters != _END:
            return "cut short, or no data set packed by build_lmdb"
        size = end - length
        content = unseal(_END, _read(file, (size, end))) if size >= 0 else None
        if content is None:
            return "damaged: its last bytes are not what was written"
        fields = json.loads(content)
        if fields["size"] != size:
            return f"damaged: {size} bytes where {fields['size']} were written"
        if fields["checksum"] != _checksum(file, fields["spans"]):
            return "damaged: its index is not what was written"
    return ""


def _pages(file: BinaryIO) -> Iterator[list[Span]]:
    """For each branch and leaf page of the last transaction, the bytes that are not an image's."""
    page_size = _page_size(file)
    metas = [_read(file, (page * page_size, (page + 1) * page_size)) for page in range(_NUM_METAS)]
    last = max(metas, key=lambda meta: _TRANSACTION.unpack_from(meta))
    below = [(_MAIN_ROOT.unpack_from(last)[0], b"")]
    while below:
        number, database = below.pop()
        if number == _EMPTY:
            continue
        start = number * page_size
        page = _read(file, (start, start + page_size))
        flags, list_end = _HEADER.unpack_from(page)
        images: list[Span] = []
        for (place,) in struct.iter_unpack("=H", page[_HEADER.size : list_end]):
            low, high, node_flags, key_size = _NODE.unpack_from(page, place)
            key_start, value = place + _NODE.size, place + _NODE.size + key_size
            if flags & _BRANCH:
                below.append((low | high << 16 | node_flags << 32, database))
            elif node_flags & _DATABASE:
                below.append((_ROOT.unpack_from(page, value)[0], page[key_start:value]))
            elif database == IMAGES and not node_flags & _ELSEWHERE:
                images.append((start + value, start + value + (low | high << 16)))
        yield list(_outside(images, (start, start + page_size)))


def _outside(holes: list[Span], whole: Span) -> Iterator[Span]:
    """The parts of a span that are in none of the holes."""
    start, end = whole
    for hole_start, hole_end in sorted(holes):
        yield start, hole_start
        start = hole_end
    yield start, end


def _joined(spans: Iterable[Span]) -> Iterator[Span]:
    """Sorted spans, of which those that touch are made one; each that is empty is left out."""
    start, end = 0, 0
    for next_start, next_end in spans:
        if next_start != end:
            if end > start:
                yield start, end
            start = next_start
        end = next_end
    yield start, end


def _checksum(file: BinaryIO, spans: Iterable[Span]) -> int:
    checksum = 0
    for span in spans:
        checksum = zlib.crc32(_read(file, span), checksum)
    return checksum


def _page_size(file: BinaryIO) -> int:
    return _PAGE_SIZE.unpack(_read(file, (0, _PAGE_SIZE.size)))[0]


def _read(file: BinaryIO, span: Span) -> bytes:
    file.seek(span[0])
    return file.read(span[1] - span[0])
