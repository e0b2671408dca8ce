import threading
from collections.abc import Iterator

import numpy as np
import pytest

from deploy.serve.batching import Batcher
from deploy.serve.errors import RequestError
from tests.deploy.conftest import MeanColour


def image(value: int) -> np.ndarray:
    return np.full((8, 4, 3), (value, 255 - value, 9), np.uint8)


@pytest.fixture
def batcher(network: MeanColour) -> Iterator[Batcher]:
    batcher = Batcher(network, 100, lambda size: None)  # pyright: ignore[reportArgumentType]
    yield batcher
    network.may_go_on.set()
    batcher.close()


def test_cancelled_images_are_skipped(batcher: Batcher, network: MeanColour) -> None:
    network.may_go_on.clear()
    first = batcher.submit([image(0)])
    while network.batches != [1]:
        pass
    others = batcher.submit([image(value) for value in range(1, 4)])
    assert others[1].cancel()
    network.may_go_on.set()
    for future in (*first, others[0], others[2]):
        future.result(timeout=10)
    assert network.batches == [1, 2]


def test_an_error_affects_one_batch(batcher: Batcher, network: MeanColour) -> None:
    network.error = RuntimeError("out of order")
    (failed,) = batcher.submit([image(1)])
    with pytest.raises(RuntimeError, match="out of order"):
        failed.result(timeout=10)
    network.error = None
    (later,) = batcher.submit([image(1)])
    assert later.result(timeout=10).shape == (3,)


def test_closing_finishes_the_queue(network: MeanColour) -> None:
    sizes: list[int] = []
    batcher = Batcher(network, 100, sizes.append)  # pyright: ignore[reportArgumentType]
    network.may_go_on.clear()
    futures = batcher.submit([image(value) for value in range(9)])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    network.may_go_on.set()
    closing.join(timeout=10)
    assert all(future.done() for future in futures)
    assert sum(sizes) == 9
    with pytest.raises(RequestError, match="stopping"):
        batcher.submit([image(1)])
