"""The service with a network that is none: quick, and what it embeds is plain to see."""

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from data.decoding import decode_bytes
from deploy.gallery.folder import synchronise
from deploy.gallery.gallery import Gallery
from deploy.serve.app import create_app
from deploy.serve.limits import Limits

Colour = tuple[int, int, int]


class MeanColour:
    """Embeds an image by its mean colour; can be held up, and made to fail."""

    img_h, img_w, embedding_dim, batch_size = 8, 4, 3, 4
    digest, card = "digest", None

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.error: Exception | None = None

    def prepare(self, image: Path | bytes) -> np.ndarray:
        return decode_bytes(image if isinstance(image, bytes) else image.read_bytes(), self.img_h, self.img_w)

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(len(pixels))
        self.may_go_on.wait(timeout=10)
        if self.error is not None:
            raise self.error
        rows = pixels.mean(axis=(1, 2)) + 1
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def png(colour: Colour, size: tuple[int, int] = (4, 8)) -> bytes:
    """An image of one colour."""
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()


def direction(colour: Colour) -> np.ndarray:
    """What `MeanColour` makes of it, from the definition."""
    row = np.array(colour, np.float64) + 1
    return row / np.sqrt((row**2).sum())


RED, GREEN, BLUE = (250, 10, 60), (20, 250, 10), (10, 20, 250)
CROPS = {"0001_c1_a.png": RED, "0002_c2_b.png": GREEN, "deeper/0003_c3_c.png": BLUE}


@pytest.fixture
def network() -> MeanColour:
    return MeanColour()


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
        synchronise(gallery, folder, network)
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
