"""Limits of what clients may send."""

from utils.options import Options


class Limits(Options):
    """Each limit is also a command line option: --max-body-mb."""

    max_body_mb: float = 16
    """Mebibytes of a request; larger ones are refused with 413."""
    max_pixels: int = 2**24
    """Pixels of an image; checked before it is decoded."""
    max_images: int = 64
    """Images of a request."""
    max_waiting: int = 256
    """Images that wait for the network; further requests are refused with 503."""
    connections: int = 256
    """Open connections; requests of further ones are refused with 503."""
