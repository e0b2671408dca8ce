"""What a data set packed into one LMDB file looks like inside.

    ABOUT      (no database)  what the file is: format, layout, test list, number of samples of each split
    samples    (database)     number of the sample, 8 bytes, big-endian -> split, pid, camid, path, length in bytes
    images     (database)     hash of the path -> the image file's bytes, as they lay on the disk

Paths are relative to the data set's folder, with forward slashes. What is no image is JSON. Every record begins with
a checksum of its key and its content, so that damage is found, and also a record that stands in another's place.
Behind what LMDB knows of, the file ends with a seal over its index (data/lmdb_index.py).
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
"""Raised with every change that an older version could not read."""

ABOUT = b"person_reid"
SAMPLES = b"samples"
IMAGES = b"images"

_NUMBER = struct.Struct(">Q")
_CHECKSUM = struct.Struct(">I")


def is_lmdb(root: Path) -> bool:
    """Whether a data set of this name is a file to be read as LMDB; a folder may be named as it likes."""
    return root.suffix == SUFFIX and not os.path.isdir(root)  # noqa: PTH112 a name that is too long is no folder, and no error


def sample_key(number: int) -> bytes:
    """Keys sort as the numbers do."""
    return _NUMBER.pack(number)


def image_key(relative: str) -> bytes:
    """16 bytes for a path of any length and in any script; LMDB's keys end at 511 bytes."""
    return hashlib.blake2b(os.fsencode(relative), digest_size=16).digest()


def seal(key: bytes, content: bytes) -> bytes:
    """A record: the checksum, then the content."""
    return _checksum(key, content) + content


def unseal(key: bytes, record: bytes | memoryview) -> bytes | None:
    """A record's content; None if it is damaged or belongs to another key."""
    content = record[_CHECKSUM.size :]
    return bytes(content) if record[: _CHECKSUM.size] == _checksum(key, content) else None


def to_json(value: Any) -> bytes:
    """Compact JSON in ASCII: names of files that are not Unicode come back as they were."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _checksum(key: bytes, content: bytes | memoryview) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(content, zlib.crc32(key)))
