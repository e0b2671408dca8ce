"""Figures of the service for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Counters:
    """One service's figures, in a registry of its own.

    Args:
        gallery_size: images in the gallery.
    """

    def __init__(self, gallery_size: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ("route", "status")
        self._requests = Counter("reid_requests", "Requests answered.", labels, registry=registry)
        self._seconds = Histogram(
            "reid_request_seconds", "Time to answer.", ("route",), buckets=SECONDS, registry=registry
        )
        self._batches = Histogram("reid_batch_images", "Images embedded at once.", buckets=BATCHES, registry=registry)
        Gauge("reid_gallery_images", "Images in the gallery.", registry=registry).set_function(gallery_size)

    def watch(self, num_waiting: Callable[[], float]) -> None:
        """Show, too, how many images wait for the network."""
        waiting = Gauge("reid_waiting_images", "Images that wait for the network.", registry=self._registry)
        waiting.set_function(num_waiting)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered; `route` is one of the service's, never what a client made up."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int) -> None:
        """Images were embedded together."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
