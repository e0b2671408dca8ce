"""The service's metrics for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Counters:
    """One service's metrics, in a registry of its own.

    Args:
        gallery_size: images in the gallery.
        num_waiting: images in the queue of the network.
    """

    def __init__(self, gallery_size: Callable[[], float], num_waiting: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("reid_requests", "Requests answered.", ("route", "status"), registry=registry)
        self._seconds = Histogram(
            "reid_request_seconds", "Time to answer.", ("route",), buckets=SECONDS, registry=registry
        )
        self._batches = Histogram("reid_batch_images", "Images embedded at once.", buckets=BATCHES, registry=registry)
        Gauge("reid_gallery_images", "Images in the gallery.", registry=registry).set_function(gallery_size)
        waiting = Gauge("reid_waiting_images", "Images that wait for the network.", registry=registry)
        waiting.set_function(num_waiting)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer; `route` is a path of the service, never one that a client made up."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int) -> None:
        """Count a batch of the network."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
