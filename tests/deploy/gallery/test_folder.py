import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.images import decode
from deploy.gallery.folder import Changes, synchronise
from deploy.gallery.gallery import Gallery, Item
from tests.deploy.conftest import MeanColour, png
from tests.deploy.gallery.conftest import ids

NAMES = {
    "0002_c3s1_000451_03.png": (255, 0, 0),
    "b.png": (0, 255, 0),
    "deeper/a.png": (0, 0, 255),
    ".hidden.png": (9, 9, 9),
    ".gallery/x.png": (9, 9, 9),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in NAMES.items():
        (tmp_path / "crops" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "crops" / name).write_bytes(png(colour))
    (tmp_path / "crops" / "notes.txt").write_text("no image")
    return tmp_path / "crops"


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery(tmp_path / "index", MeanColour.embedding_dim, "model") as gallery:
        yield gallery


def changes(gallery: Gallery, folder: Path, network: MeanColour) -> Changes:
    return synchronise(gallery, folder, network)  # pyright: ignore[reportArgumentType]


def test_the_gallery_follows_the_folder(folder: Path, gallery: Gallery, network: MeanColour) -> None:
    assert changes(gallery, folder, network) == Changes(3, 0, 0)
    assert list(ids(gallery)) == ["0002_c3s1_000451_03.png", "b.png", "deeper/a.png"]
    item = gallery.item(0)
    assert (item.camid, item.time) == (3, (folder / item.name).stat().st_mtime)
    assert gallery.item(1).camid == 0

    assert changes(gallery, folder, network) == Changes(0, 0, 0)
    assert network.batches == [3]

    (folder / "b.png").write_bytes(png((255, 255, 0)))
    os.utime(folder / "b.png", (1, 1))
    (folder / "deeper" / "a.png").unlink()
    (folder / "new.png").write_bytes(png((0, 255, 255)))
    assert changes(gallery, folder, network) == Changes(2, 2, 0)
    assert ids(gallery) == {"0002_c3s1_000451_03.png": 0, "b.png": 3, "new.png": 4}
    assert gallery.vector(3) == pytest.approx(network.embed(np.array([decode(folder / "b.png")]))[0])


def test_unreadable_images_are_named_and_the_others_indexed(
    folder: Path, gallery: Gallery, network: MeanColour, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "broken.jpg").write_bytes(b"no image")
    assert changes(gallery, folder, network) == Changes(3, 0, 1)
    assert "broken.jpg: " in caplog.text
    # The embedding of an earlier content goes.
    (folder / "b.png").write_bytes(b"no image")
    assert changes(gallery, folder, network) == Changes(0, 1, 2)
    assert "b.png" not in ids(gallery)


def test_images_without_an_embedding_are_named_and_the_others_indexed(
    folder: Path,
    gallery: Gallery,
    network: MeanColour,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    embed = network.embed
    monkeypatch.setattr(network, "embed", lambda pixels: embed(pixels) * (pixels[:, 0, 0, 1:2] == 0))
    assert changes(gallery, folder, network) == Changes(2, 0, 1)
    assert list(ids(gallery)) == ["0002_c3s1_000451_03.png", "deeper/a.png"]
    assert "b.png: its embedding is 0" in caplog.text


def test_uploaded_images_stay(
    folder: Path, gallery: Gallery, network: MeanColour, caplog: pytest.LogCaptureFixture
) -> None:
    gallery.add(np.eye(3, dtype=np.float32)[:1], [Item("b.png", 5)], [b"crop"])
    assert changes(gallery, folder, network) == Changes(2, 0, 0)
    assert gallery.item(0).camid == 5
    assert "left out:\n  b.png" in caplog.text


def test_a_folder_without_images_removes_none(
    folder: Path, gallery: Gallery, network: MeanColour, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    changes(gallery, folder, network)
    (tmp_path / "not mounted").mkdir()
    assert changes(gallery, tmp_path / "not mounted", network) == Changes(0, 0, 0)
    assert len(gallery) == 3
    assert "no images" in caplog.text


@pytest.mark.parametrize("change", ["add", "remove"])
def test_another_process_may_do_the_same_meanwhile(
    folder: Path, gallery: Gallery, network: MeanColour, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    if change == "remove":
        changes(gallery, folder, network)
        (folder / "b.png").unlink()
    original = getattr(gallery, change)

    def late(*args: object) -> object:
        monkeypatch.undo()
        changes(gallery, folder, network)
        return original(*args)

    monkeypatch.setattr(gallery, change, late)
    changes(gallery, folder, network)
    expected = {"add": ["0002_c3s1_000451_03.png", "b.png", "deeper/a.png"]}
    assert list(ids(gallery)) == expected.get(change, ["0002_c3s1_000451_03.png", "deeper/a.png"])
