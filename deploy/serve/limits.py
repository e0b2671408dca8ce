"""What the service takes from its clients, at most."""

from pydantic import Field

from utils.options import Options


class Limits(Options):
    """Each is an option of the command line, too: --max-body-mb."""

    max_body_mb: float = Field(default=16.0, gt=0.0)
    """Mebibytes of a request; what is larger is refused with 413."""
    max_pixels: int = Field(default=2**24, ge=1)
    """Pixels of an image, refused before they take memory."""
    max_images: int = Field(default=64, ge=1)
    """Images of a request."""
    max_results: int = Field(default=1000, ge=1)
    """Matches of a search."""
    max_waiting: int = Field(default=256, ge=1)
    """Images that wait for the network; beyond, requests are refused with 503."""
    rate: float = Field(default=50.0, gt=0.0)
    """Requests a second of one client address in the long run; beyond, they are refused with 429."""
    burst: int = Field(default=200, ge=1)
    """Requests of one client address at once."""
    body_seconds: float = Field(default=20.0, gt=0.0)
    """Seconds in which a request must have come; slower ones are refused with 408."""
    connections: int = Field(default=256, ge=1)
    """Requests under way at once; beyond, they are refused with 503."""
