import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.images import decode
from deploy.gallery.folder import Changes, synchronise
from deploy.gallery.gallery import Gallery, Item
from tests.deploy.gallery.conftest import DIM


class MeanColour:
    """Embeds an image by its mean colour."""

    batch_size = 3

    def __init__(self) -> None:
        self.num_embedded = 0

    def prepare(self, image: Path) -> np.ndarray:
        return decode(image, 8, 4)

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        self.num_embedded += len(pixels)
        rows = np.concatenate([pixels.mean(axis=(1, 2)) + 1, np.zeros((len(pixels), DIM - 3))], axis=1)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def draw(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 8), colour).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw(tmp_path / "crops" / "0002_c3s1_000451_03.png", (255, 0, 0))
    draw(tmp_path / "crops" / "b.png", (0, 255, 0))
    draw(tmp_path / "crops" / "deeper" / "a.png", (0, 0, 255))
    draw(tmp_path / "crops" / ".hidden.png", (9, 9, 9))
    draw(tmp_path / "crops" / ".gallery" / "x.png", (9, 9, 9))
    (tmp_path / "crops" / "notes.txt").write_text("no image")
    return tmp_path / "crops"


def test_the_gallery_follows_the_folder(folder: Path, gallery: Gallery) -> None:
    network = MeanColour()
    assert synchronise(gallery, folder, network) == Changes(3, 0, 0, 0)
    assert list(gallery.ids()) == ["0002_c3s1_000451_03.png", "b.png", "deeper/a.png"]
    item = gallery.item(0)
    assert (item.camid, item.time) == (3, (folder / item.name).stat().st_mtime)
    assert gallery.item(1).camid == 0

    assert synchronise(gallery, folder, network) == Changes(0, 0, 0, 0)
    assert network.num_embedded == 3

    draw(folder / "b.png", (255, 255, 0))
    os.utime(folder / "b.png", (1, 1))
    (folder / "deeper" / "a.png").unlink()
    draw(folder / "new.png", (0, 255, 255))
    assert synchronise(gallery, folder, network) == Changes(1, 1, 1, 0)
    assert gallery.ids() == {"0002_c3s1_000451_03.png": 0, "b.png": 3, "new.png": 4}
    assert gallery.vector(3) == pytest.approx(network.embed(np.array([decode(folder / "b.png")]))[0])


def test_unreadable_images_are_told_and_the_rest_is_indexed(
    folder: Path, gallery: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "broken.jpg").write_bytes(b"no image")
    assert synchronise(gallery, folder, MeanColour()) == Changes(3, 0, 0, 1)
    assert "broken.jpg: damaged, or not an image" in caplog.text
    # One that could be read before is no longer what the file shows.
    (folder / "b.png").write_bytes(b"no image")
    assert synchronise(gallery, folder, MeanColour()) == Changes(0, 0, 1, 2)
    assert "b.png" not in gallery.ids()


def test_crops_of_a_stream_are_left_alone(folder: Path, gallery: Gallery, caplog: pytest.LogCaptureFixture) -> None:
    vector = np.eye(DIM, dtype=np.float32)[:1]
    gallery.add(vector, [Item("b.png", 5)], [b"crop"])
    assert synchronise(gallery, folder, MeanColour()) == Changes(2, 0, 0, 0)
    assert gallery.item(0).camid == 5
    assert "called like crops of a stream, and left out:\n  b.png" in caplog.text
