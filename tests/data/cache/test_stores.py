from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.cache import DeviceStore, FileStore, ImageStore, RamStore
from data.cache.fill import images_in_ram, images_on_device
from data.decoding import Resize
from data.images import decode
from utils.errors import DataError

SMALL = Resize(16, 8, "bilinear")


def make_store(kind: str, paths: list[Path], resize: Resize = SMALL) -> ImageStore:
    if kind == "none":
        return FileStore(paths, resize)
    if kind == "ram":
        return RamStore(images_in_ram(paths, resize))
    return DeviceStore(images_on_device(paths, resize, torch.device("cpu")))


@pytest.fixture
def paths(tmp_path: Path, draw_image: Callable[..., Path]) -> list[Path]:
    # More than are decoded at a time.
    return [draw_image(tmp_path / f"{index}.png", seed=index) for index in range(37)]


@pytest.mark.parametrize("kind", ["none", "ram", "device"])
@pytest.mark.parametrize("resize", [Resize(128, 64, "bilinear"), Resize(48, 24, "bilinear"), Resize(48, 24, "bicubic")])
def test_a_store_serves_the_decoded_images(paths: list[Path], kind: str, resize: Resize) -> None:
    indices = [3, 36, 0, 16, 3, 15]
    images = make_store(kind, paths, resize).read(indices)
    assert images.shape == (6, 3, *resize[:2])
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    for image, index in zip(images, indices, strict=True):
        assert torch.equal(image.permute(1, 2, 0), torch.tensor(decode(paths[index], resize)))


@pytest.mark.parametrize("kind", ["none", "ram", "device"])
def test_an_index_that_no_image_has_is_an_error(paths: list[Path], kind: str) -> None:
    with pytest.raises(IndexError):
        make_store(kind, paths).read([0, 37])


@pytest.mark.parametrize("kind", ["none", "ram", "device"])
def test_what_was_read_is_the_readers_own(paths: list[Path], kind: str) -> None:
    store = make_store(kind, paths)
    before = store.read([1]).clone()
    store.read([1]).zero_()
    assert torch.equal(store.read([1]), before)


@pytest.mark.parametrize("kind", ["ram", "device"])
def test_a_bad_image_is_found_while_the_store_is_filled(paths: list[Path], kind: str) -> None:
    paths[20].write_bytes(b"no image")
    with pytest.raises(DataError, match=r"20\.png"):
        make_store(kind, paths)
