"""The records of an LMDB file.

    ABOUT      (no database)  format, layout, test list, number of samples of each split
    samples    (database)     number of the sample, 8 bytes, big-endian -> split, pid, camid, path
    images     (database)     hash of the path -> the bytes of the image file

Paths are relative to the data set's folder, with forward slashes. Records other than images are JSON. Every record
begins with a CRC32 of its key and content, which detects damage and records stored under the wrong key.
"""

import hashlib
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

SUFFIX = ".lmdb"
FORMAT = 1
"""Of the records. A file of another format is refused."""

ABOUT = b"person_reid"
SAMPLES = b"samples"
IMAGES = b"images"

_NUMBER = struct.Struct(">Q")
_CHECKSUM = struct.Struct(">I")


def is_lmdb(root: Path) -> bool:
    """Whether a data set of this name is read as an LMDB file; a folder may have any name."""
    return root.suffix == SUFFIX and not os.path.isdir(root)  # noqa: PTH112 a name that is too long is not an error here


def sample_key(number: int) -> bytes:
    """Key of a sample; keys sort as the numbers do."""
    return _NUMBER.pack(number)


def image_key(relative: str) -> bytes:
    """Key of an image: 16 bytes for a path of any length, since LMDB limits keys to 511 bytes."""
    return hashlib.blake2b(os.fsencode(relative), digest_size=16).digest()


def add_checksum(key: bytes, content: bytes) -> bytes:
    """The record of a content: its checksum, then the content."""
    return _checksum(key, content) + content


def strip_checksum(key: bytes, record: bytes | memoryview) -> bytes | None:
    """The content of a record; None if it is damaged or belongs to another key."""
    content = record[_CHECKSUM.size :]
    return bytes(content) if record[: _CHECKSUM.size] == _checksum(key, content) else None


def to_json(value: Any) -> bytes:
    """Compact JSON in ASCII; file names that are not valid Unicode survive the round trip."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _checksum(key: bytes, content: bytes | memoryview) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(content, zlib.crc32(key)))
