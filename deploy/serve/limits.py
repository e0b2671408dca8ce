"""Limits of what clients may send and ask."""

from pydantic import Field

from utils.options import Options


class Limits(Options):
    """Each limit is also a command line option: --max-body-mb."""

    max_body_mb: float = Field(default=16.0, gt=0.0)
    """Mebibytes of a request; larger ones are refused with 413."""
    max_pixels: int = Field(default=2**24, ge=1)
    """Pixels of an image; checked before it is decoded."""
    max_images: int = Field(default=64, ge=1)
    """Images of a request."""
    max_results: int = Field(default=1000, ge=1)
    """Matches of a search."""
    max_waiting: int = Field(default=256, ge=1)
    """Images that wait for the network; further requests are refused with 503."""
    rate: float = Field(default=50.0, gt=0.0)
    """Average requests a second of one client address; further ones are refused with 429."""
    burst: int = Field(default=200, ge=1)
    """Requests of one client address at once."""
    body_seconds: float = Field(default=20.0, gt=0.0)
    """Seconds for the body of a request to arrive; slower ones are refused with 408."""
    connections: int = Field(default=256, ge=1)
    """Requests in progress at once; further ones are refused with 503."""
