"""Images of several requests embedded together."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from deploy.predictor import Predictor
from deploy.serve.errors import RequestError


class _Waiting(NamedTuple):
    pixels: np.ndarray
    """(H, W, 3) uint8."""
    result: "Future[np.ndarray]"


class Batcher:
    """Collects images that arrive while the network computes, and embeds them in one batch, without any delay.

    One thread calls the network.

    Args:
        predictor: embeds.
        max_waiting: images in the queue.
        observe: called with the size of each batch, in the batcher's thread.
    """

    def __init__(self, predictor: Predictor, max_waiting: int, observe: Callable[[int], None]) -> None:
        self._predictor, self._max_waiting, self._observe = predictor, max_waiting, observe
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="embedding", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Images in the queue."""
        return self._queue.qsize()

    def submit(self, images: list[np.ndarray]) -> "list[Future[np.ndarray]]":
        """Queue images (H, W, 3) uint8: a future (D,) float32 for each; a cancelled one is skipped.

        Raises:
            RequestError: 503, the queue is full, or the batcher is closed.
        """
        with self._lock:
            if self._closed:
                raise RequestError(503, "the service is stopping", retry_after=5)
            if self.num_waiting + len(images) > self._max_waiting:
                raise RequestError(503, f"more than {self._max_waiting} images wait for the network", retry_after=1)
            futures: list[Future[np.ndarray]] = [Future() for _ in images]
            for waiting in map(_Waiting, images, futures):
                self._queue.put(waiting)
        return futures

    def close(self) -> None:
        """Embed what is queued, then stop."""
        with self._lock:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            with suppress(queue.Empty):
                while len(batch) < self._predictor.batch_size:
                    if (more := self._queue.get_nowait()) is None:
                        self._queue.put(None)  # the last entry, for the outer loop
                        break
                    batch.append(more)
            self._embed([one for one in batch if one.result.set_running_or_notify_cancel()])

    def _embed(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        self._observe(len(batch))
        try:
            rows = self._predictor.embed(np.stack([one.pixels for one in batch]))
        # Every request of the batch gets the error; the next batch is not affected.
        except Exception as error:
            for one in batch:
                one.result.set_exception(error)
            return
        for one, row in zip(batch, rows, strict=True):
            one.result.set_result(row)
