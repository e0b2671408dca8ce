"""Zip archives that anybody may have made: what their directories say is checked before it is believed."""

import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from utils.errors import DataError
from utils.free_memory import free_memory
from utils.seal import Seal, read_seal

START = b"PK\3\4"
"""The first bytes of an archive."""
MAX_DIRECTORY = 2**24
"""Bytes of an archive's directory; a network of a thousand tensors needs 80,000."""
_ENCRYPTED = 0x1
_FOLDER = 0x10
"""Among an entry's attributes. For an entry that calls itself a folder torch returns memory as it finds it."""
_GIB = 2**30
_END, _END64 = struct.Struct("<4s6xHI"), struct.Struct("<4s28xQQ")
"""Of the record that ends an archive, and of that for large ones: signature, number of entries, directory's size."""
_END64_SIZE, _LOCATOR_SIZE = 56, 20


def open_archive(path: Path, file: BinaryIO, *, compressed: bool) -> tuple[zipfile.ZipFile, Seal]:
    """An archive whose directory fits the file, and whether a seal vouches for its content.

    Args:
        path: what error messages call it.
        compressed: whether its entries may be.

    Raises:
        DataError: the file is damaged, or made to look like more than it is.
        Exception: of many kinds; zipfile has no one kind for what it cannot read.
    """
    seal = read_seal(file)
    if seal is Seal.BROKEN:
        raise DataError(
            f"{path}: damaged: its content does not fit its checksum; take another copy of it, or make it anew"
        )
    if seal is Seal.NO_END:
        raise ValueError("damaged: its end is missing; take another copy of it, or make it anew")
    size = file.seek(0, os.SEEK_END)
    number, directory_size = _stated(file, size)
    if directory_size > MAX_DIRECTORY:
        raise _distrusted(path, f"its directory takes more than {MAX_DIRECTORY // 2**20} MiB")
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    # One bit is enough to make an entry the comment on the one before it.
    if len(entries) != number:
        raise _distrusted(path, f"it has {len(entries)} entries, and should have {number}")
    _check_entries(path, entries, size, compressed)
    return archive, seal


def _check_entries(path: Path, entries: Sequence[zipfile.ZipInfo], size: int, compressed: bool) -> None:
    """See that the entries are what they are said to be to all readers, in a file of `size` bytes."""
    known = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} if compressed else {zipfile.ZIP_STORED}
    for entry in entries:
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in known:
            raise _distrusted(path, f"{entry.filename!a} is encrypted, or compressed in a way it should not be")
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise _distrusted(path, f"{entry.filename!a} has two sizes")
        if entry.external_attr & _FOLDER or entry.is_dir():
            raise _distrusted(path, f"{entry.filename!a} is said to be a folder")
    # Readers differ in which of two they take, and in whether case matters.
    if len({entry.filename.casefold() for entry in entries}) < len(entries):
        raise _distrusted(path, "two of its entries have the same name")
    if sum(entry.compress_size for entry in entries) > size:
        raise _distrusted(path, "its entries are larger than the file")
    if entries and min(entry.header_offset for entry in entries) != 0:
        raise _distrusted(path, "it does not begin with its first entry")


def check_room(path: Path, needed: int) -> None:
    """See that content of so many bytes fits into memory; the system may end a process that tries.

    Raises:
        DataError: it does not.
    """
    free = free_memory()
    if free is not None and needed > free:
        raise DataError(
            f"{path}: reading it takes {needed / _GIB:.1f} GiB of memory, and {free / _GIB:.1f} GiB are free; "
            "is it the right file?"
        )


def _stated(file: BinaryIO, size: int) -> tuple[int, int]:
    """How many entries an archive says it has, and how many bytes its directory; `size` is the file's."""
    file.seek(max(0, size - 2**8))
    tail = file.read()
    end = tail.rindex(b"PK\5\6")
    _, number, num_bytes = _END.unpack_from(tail, end)
    large = end - _LOCATOR_SIZE - _END64_SIZE
    if large >= 0 and tail[end - _LOCATOR_SIZE :].startswith(b"PK\6\7"):
        _, number, num_bytes = _END64.unpack_from(tail, large)
    return number, num_bytes


def _distrusted(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: damaged, or made to mislead: {reason}; it is not read")
