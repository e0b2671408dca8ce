"""The service with a network that is none: quick, and what it embeds is plain to see."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from deploy.gallery.folder import synchronise
from deploy.gallery.gallery import Gallery
from deploy.serve.app import create_app
from deploy.serve.limits import Limits
from tests.deploy.conftest import MeanColour, png

Colour = tuple[int, int, int]


def direction(colour: Colour) -> np.ndarray:
    """What `MeanColour` makes of it, from the definition."""
    row = np.array(colour, np.float64) + 1
    return row / np.sqrt((row**2).sum())


RED, GREEN, BLUE = (250, 10, 60), (20, 250, 10), (10, 20, 250)
CROPS = {"0001_c1_a.png": RED, "0002_c2_b.png": GREEN, "deeper/0003_c3_c.png": BLUE}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in CROPS.items():
        path = tmp_path / "crops" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(colour))
    return tmp_path / "crops"


@pytest.fixture
def serving(network: MeanColour, folder: Path) -> Iterator[Callable[..., TestClient]]:
    """Starts a service over the folder with other limits or options than usual; its client."""
    clients: list[TestClient] = []
    with Gallery(folder / ".gallery", 3, "digest") as gallery:
        synchronise(gallery, folder, network)  # pyright: ignore[reportArgumentType]
        network.batches.clear()

        def start(options: dict[str, Any] | None = None, **limits: object) -> TestClient:
            app = create_app(network, gallery, folder, Limits.model_validate(limits), **(options or {}))  # pyright: ignore[reportArgumentType]
            client = TestClient(app, base_url="http://127.0.0.1")
            clients.append(client.__enter__())
            return client

        yield start
        network.may_go_on.set()
        for client in clients:
            client.__exit__(None, None, None)


@pytest.fixture
def client(serving: Callable[..., TestClient]) -> TestClient:
    return serving()


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def form(*images: bytes, name: str = "image") -> list[tuple[str, tuple[str, bytes]]]:
    """Files of a form: 0.png, 1.png, ..."""
    return [(name, (f"{number}.png", image)) for number, image in enumerate(images)]
