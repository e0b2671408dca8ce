"""Name, camera and time of a gallery's image, and their record."""

import math
import struct
from typing import NamedTuple

_FIXED = struct.Struct("<QIqdI")
"""Row, checksum of the embedding, camid, time, length of the name."""
_LARGEST = 2**63
MAX_NAME = 2**16
"""Bytes of a name or a stamp."""


class UnknownIdError(KeyError):
    """There is no item of this id in the gallery."""


class Item(NamedTuple):
    """One image of a gallery."""

    name: str
    """Unique in a gallery; for an image of the folder its relative path, with forward slashes."""
    camid: int = 0
    """Camera; 0 = unknown."""
    time: float = 0.0
    """When the image was taken, Unix seconds; 0 = unknown."""
    stamp: str = ""
    """Size and modification time of a file, to detect changes; "" for an uploaded image."""

    def problem(self) -> str:
        """What is invalid; "" if nothing is."""
        for field, text in (("name", self.name), ("stamp", self.stamp)):
            if not _is_text(text):
                return f"{field}: expected text of at most {MAX_NAME} bytes, got {text[:100]!r}"
        if not self.name:
            return "name: must not be empty"
        if not -_LARGEST <= self.camid < _LARGEST:
            return f"camid: expected a whole number of 64 bits, got {self.camid}"
        return "" if math.isfinite(self.time) else f"time: expected Unix seconds, got {self.time}"


class Match(NamedTuple):
    """One result of a search."""

    id: int
    item: Item
    distance: float
    """1 - cosine, 0..2."""


class Entry(NamedTuple):
    """The record of an image."""

    row: int
    """Row in the vector file."""
    checksum: int
    """CRC-32 of the embedding's bytes."""
    item: Item

    def pack(self) -> bytes:
        """As bytes."""
        name, stamp = _encoded(self.item.name), _encoded(self.item.stamp)
        return _FIXED.pack(self.row, self.checksum, self.item.camid, self.item.time, len(name)) + name + stamp

    @classmethod
    def unpack(cls, content: bytes) -> "Entry":
        """From the bytes."""
        row, checksum, camid, time, length = _FIXED.unpack_from(content)
        stamp = _FIXED.size + length
        return cls(row, checksum, Item(_decoded(content[_FIXED.size : stamp]), camid, time, _decoded(content[stamp:])))


def _is_text(text: str) -> bool:
    try:
        return len(_encoded(text)) <= MAX_NAME
    except UnicodeEncodeError:
        return False


def _encoded(text: str) -> bytes:
    # File names that are not valid Unicode survive the round trip.
    return text.encode("utf-8", "surrogateescape")


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")
