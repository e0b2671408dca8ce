import asyncio

import numpy as np
import pytest
from fastapi import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from deploy.serve.batching import Batcher
from tests.deploy.conftest import MeanColour


def image(value: int) -> np.ndarray:
    return np.full((8, 4, 3), (value, 255 - value, 9), np.uint8)


async def nothing() -> Message:
    return await asyncio.Future()


async def disconnect() -> Message:
    return {"type": "http.disconnect"}


HERE, GONE = Request({"type": "http"}, nothing), Request({"type": "http"}, disconnect)
"""Requests of a client that waits, and of one that has gone."""


def embed(network: MeanColour, requests: list[tuple[int, Request]], most: int = 100) -> list[object]:
    """What becomes of requests of so many images each, which come while the network embeds another image."""
    sizes: list[int] = []

    async def work() -> list[object]:
        batcher = Batcher(network, most, sizes.append)  # pyright: ignore[reportArgumentType]
        network.may_go_on.clear()
        first = asyncio.create_task(batcher.embed([image(0)], HERE))
        while not network.batches:
            await asyncio.sleep(0.01)
        others = [
            asyncio.create_task(batcher.embed([image(50 * number + place) for place in range(count)], client))
            for number, (count, client) in enumerate(requests)
        ]
        await asyncio.sleep(0.05)
        network.may_go_on.set()
        await first
        return list(await asyncio.gather(*others, return_exceptions=True))

    found = asyncio.run(work())
    assert sizes == network.batches
    return found


def test_images_of_several_requests_are_embedded_together_and_keep_their_order(network: MeanColour) -> None:
    found = embed(network, [(2, HERE), (5, HERE), (1, HERE)])
    assert network.batches == [1, 4, 4]
    for number, (rows, count) in enumerate(zip(found, (2, 5, 1), strict=True)):
        means = np.array([(50 * number + place, 255 - 50 * number - place, 9) for place in range(count)]) + 1.0
        assert rows == pytest.approx(means / np.linalg.norm(means, axis=1, keepdims=True), abs=1e-6)


def test_images_of_clients_that_have_gone_are_skipped(network: MeanColour) -> None:
    found = embed(network, [(1, HERE), (2, GONE), (1, HERE)])
    assert network.batches == [1, 2]
    assert isinstance(found[1], ClientDisconnect)
    assert all(isinstance(rows, np.ndarray) for rows in (found[0], found[2]))


def test_a_full_queue_refuses_a_request_as_a_whole(network: MeanColour) -> None:
    found = embed(network, [(3, HERE), (3, HERE), (2, HERE)], most=5)
    assert network.batches == [1, 4, 1]
    assert isinstance(found[1], HTTPException)
    assert found[1].status_code == 503
    assert found[1].headers == {"Retry-After": "1"}


def test_an_error_affects_one_batch(network: MeanColour) -> None:
    async def work() -> None:
        batcher = Batcher(network, 100, lambda size: None)  # pyright: ignore[reportArgumentType]
        network.error = RuntimeError("out of order")
        with pytest.raises(RuntimeError, match="out of order"):
            await batcher.embed([image(1), image(2)], HERE)
        network.error = None
        assert (await batcher.embed([image(1)], HERE)).shape == (1, 3)

    asyncio.run(work())
