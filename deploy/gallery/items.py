"""Images of a gallery, without their embeddings."""

from typing import NamedTuple

from utils.errors import DataError


class UnknownIdError(KeyError):
    """There is no item of this id in the gallery."""


class NoSpaceError(DataError):
    """The index cannot be written, as its disk is full."""


class NameTakenError(DataError):
    """An item of this name is in the gallery already."""


class ZeroEmbeddingError(ValueError):
    """An embedding is 0, and so no nearer to one image than to another."""


class Item(NamedTuple):
    """One image of a gallery."""

    name: str  # unique; for an image of the folder its relative path, with forward slashes
    camid: int = 0  # camera; 0 = unknown
    time: float = 0.0  # when the image was taken, Unix seconds; 0 = unknown
    stamp: str = ""  # size and modification time of a file, to detect changes; "" for an uploaded image


class Match(NamedTuple):
    """One result of a search."""

    id: int
    item: Item
    distance: float  # 1 - cosine, 0..2
