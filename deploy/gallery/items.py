"""Images of a gallery, without their embeddings."""

import re
from typing import NamedTuple
from urllib.parse import unquote

from utils.errors import DataError


class UnknownIdError(KeyError):
    """There is no item of this id in the gallery."""


class NameTakenError(DataError):
    """An item of this name is in the gallery already."""


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


class Match(NamedTuple):
    """One result of a search."""

    id: int
    item: Item
    distance: float
    """1 - cosine, 0..2."""


def encode_name(name: str) -> str:
    """As valid Unicode: bytes of a file name that are not UTF-8, and %, become %XX."""
    return re.sub("[%\udc80-\udcff]", lambda match: f"%{ord(match[0]) & 0xFF:02X}", name)


def decode_name(encoded: str) -> str:
    """The inverse of `encode_name`."""
    return unquote(encoded, errors="surrogateescape")
