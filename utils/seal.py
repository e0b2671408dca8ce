"""A checksum over a whole zip archive, kept in the archive's own comment, which other readers of zip files pass over.

Checkpoints and feature files are zip archives. Ours end with a comment: "sha256:" and 64 hexadecimal digits, the
SHA-256 of every byte before the comment. So a copy with a single bit changed is told from the original.

Source: the end of central directory record in section 4.3.16 of PKWARE's APPNOTE.TXT.
"""

import hashlib
import io
import os
import struct
from enum import Enum
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_LABEL = b"sha256:"
_COMMENT_SIZE = len(_LABEL) + 2 * hashlib.sha256().digest_size
_END = struct.Struct("<4s16xH")
"""The record that ends an archive: its signature and, after all else, the size of the comment that follows."""
_SIGNATURE = b"PK\5\6"
_CHUNK = 2**20


class Seal(Enum):
    """What the end of an archive says of its content."""

    WHOLE = "content and checksum fit"
    BROKEN = "they do not"
    NONE = "the archive ends as one without a checksum does"
    NO_END = "the file ends in neither way"


class SealingFile(io.RawIOBase):
    """A file to write one zip archive into, front to back; `seal` ends it.

    What was written is already part of the checksum, so there is no going back. Python's zipfile, which finds that it
    cannot, writes behind an entry what it only knows afterwards, instead of before it.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._hash = hashlib.sha256()
        self._held = b""
        """The last bytes written: they may be the end record, which the seal changes."""

    def writable(self) -> bool:
        return True

    def write(self, content: "ReadableBuffer") -> int:
        """Write bytes; returns how many."""
        view = memoryview(content).cast("B")
        if len(view) >= _END.size:
            self._pass_on(self._held)
            self._pass_on(view[: -_END.size])
            self._held = bytes(view[-_END.size :])
        else:
            held = self._held + bytes(view)
            self._pass_on(held[: -_END.size])
            self._held = held[-_END.size :]
        return len(view)

    def seal(self) -> None:
        """Write the end.

        Raises:
            RuntimeError: what was written does not end as an archive without a comment does.
        """
        if not _ends_without_comment(self._held):
            raise RuntimeError("no zip archive without a comment was written, so there is no place for a seal")
        self._pass_on(self._held[:-2] + struct.pack("<H", _COMMENT_SIZE))
        self._held = b""
        self._file.write(_LABEL + self._hash.hexdigest().encode())

    def _pass_on(self, content: bytes | memoryview) -> None:
        self._hash.update(content)
        self._file.write(content)


def read_seal(file: BinaryIO) -> Seal:
    """What the end of an archive says of its content; reads all of it if there is a checksum.

    Raises:
        OSError: the file cannot be read.
    """
    size = file.seek(0, os.SEEK_END)
    if _ends_without_comment(_last(file, _END.size)):
        return Seal.NONE
    tail = _last(file, _END.size + _COMMENT_SIZE)
    comment = tail[_END.size :]
    if len(tail) < _END.size + _COMMENT_SIZE or not comment.startswith(_LABEL):
        return Seal.NO_END
    # The record before the comment is part of what is hashed, so it needs no look of its own.
    fits = comment == _LABEL + _hash_of(file, size - _COMMENT_SIZE).encode()
    return Seal.WHOLE if fits else Seal.BROKEN


def _ends_without_comment(tail: bytes) -> bool:
    return len(tail) == _END.size and _END.unpack(tail) == (_SIGNATURE, 0)


def _last(file: BinaryIO, count: int) -> bytes:
    """The last bytes of a file; fewer if it has no more."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - count))
    return file.read(count)


def _hash_of(file: BinaryIO, size: int) -> str:
    """SHA-256 of a file's first bytes, in hexadecimal digits."""
    checksum = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    file.seek(0)
    while size > 0:
        count = file.readinto(buffer[: min(size, _CHUNK)])  # pyright: ignore[reportAttributeAccessIssue]
        if not count:
            break
        checksum.update(buffer[:count])
        size -= count
    return checksum.hexdigest()
