"""Images of several requests embedded together."""

import asyncio
from collections import deque
from collections.abc import Callable

import numpy as np
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from deploy.predictor import Predictor

Waiting = tuple[np.ndarray, "asyncio.Future[np.ndarray]", Request]
"""An image (H, W, 3) uint8, its embedding to come, and the request for it."""


class Batcher:
    """Collects images that arrive while the network computes in a thread, and embeds them in one batch, without delay.

    At most `max_waiting` images are in the queue; `observe` is called with the size of each batch.
    """

    def __init__(self, predictor: Predictor, max_waiting: int, observe: Callable[[int], None]) -> None:
        self._predictor, self._max_waiting, self._observe = predictor, max_waiting, observe
        self.queue: deque[Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def embed(self, images: list[np.ndarray], request: Request) -> np.ndarray:
        """Images (H, W, 3) uint8 -> embeddings (N, D) float32; they are skipped if the client has disconnected.

        Raises:
            HTTPException: 503, the queue is full.
            ClientDisconnect: the client has disconnected.
        """
        if len(self.queue) + len(images) > self._max_waiting:
            raise HTTPException(503, f"more than {self._max_waiting} images wait for the network", {"Retry-After": "1"})
        results = [asyncio.get_running_loop().create_future() for _ in images]
        self.queue += [(image, result, request) for image, result in zip(images, results, strict=True)]
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return np.stack(await asyncio.shield(asyncio.gather(*results)))

    async def _work(self) -> None:
        while self.queue:
            batch: list[Waiting] = []
            while self.queue and len(batch) < self._predictor.batch_size:
                image, result, request = self.queue.popleft()
                if await request.is_disconnected():
                    result.set_exception(ClientDisconnect())
                else:
                    batch.append((image, result, request))
            if not batch:
                continue
            self._observe(len(batch))
            try:
                rows = await asyncio.to_thread(self._predictor.embed, np.stack([image for image, _, _ in batch]))
                for (_, result, _), row in zip(batch, rows, strict=True):
                    result.set_result(row)
            # Every request of this batch gets the error; the next batch is not affected.
            except Exception as error:
                for _, result, _ in batch:
                    result.set_exception(error)
