"""Batches reach the GPU as they are on the CPU, and nobody waits for them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.cache import DataCache, DeviceStore, FileStore, ImageStore, RamStore, build_store
from data.cache.build import free_now
from data.cache.fill import images_in_ram, images_on_device
from data.decoding import Resize
from data.eval_loader import eval_batches
from data.loader import load_batches
from tests.gpu.conftest import never_waits
from utils.errors import ParamsError

HEIGHT, WIDTH = 48, 24
SIZE = Resize(HEIGHT, WIDTH, "bilinear")
BUSY = 2048
"""Size of the matrices whose products keep a GPU busy."""


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{index}.png" for index in range(40)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    return paths


def make_store(data_cache: str, paths: list[Path], device: torch.device) -> ImageStore:
    if data_cache == "none":
        return FileStore(paths, SIZE)
    if data_cache == "ram":
        return RamStore(images_in_ram(paths, SIZE))
    return DeviceStore(images_on_device(paths, SIZE, device))


@pytest.mark.parametrize("data_cache", ["none", "ram", "device"])
def test_batches_are_those_of_the_cpu_and_nobody_waits_for_the_device(
    data_cache: str, paths: list[Path], device: torch.device
) -> None:
    rng = np.random.default_rng(1)
    batches = rng.integers(0, len(paths), (50, 8)).tolist()
    labels = torch.from_numpy(rng.integers(0, 1000, len(paths)))
    store = make_store(data_cache, paths, device)
    found, busy = [], torch.randn(BUSY, BUSY, device=device)
    busy = (busy @ busy).tanh_()
    with never_waits(device):
        for batch in load_batches(store, labels, batches, device):
            # The device falls behind, so that a buffer that was used again too early would show.
            for _ in range(5):
                busy = (busy @ busy).tanh_()
            found.append((batch.images.clone(), batch.labels.clone()))
            assert batch.images.device == batch.labels.device == device
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
    files = FileStore(paths, SIZE)
    for indices, (images, chosen) in zip(batches, found, strict=True):
        assert torch.equal(images.cpu(), files.read(indices))
        assert torch.equal(chosen.cpu(), labels[indices])


@pytest.mark.parametrize(("data_cache", "kind"), [("auto", DeviceStore), ("device", DeviceStore), ("ram", RamStore)])
def test_images_are_kept_on_the_gpu_unless_told_otherwise(
    data_cache: DataCache, kind: type[ImageStore], paths: list[Path], device: torch.device
) -> None:
    store = build_store(paths, SIZE, data_cache, device)
    assert isinstance(store, kind)
    assert torch.equal(store.read([7, 39]).cpu(), FileStore(paths, SIZE).read([7, 39]))


def test_images_that_the_gpu_has_no_room_for_are_refused(paths: list[Path], device: torch.device) -> None:
    free = free_now(device).device
    assert free is not None
    side = 16 * int((free / len(paths)) ** 0.5 / 16 + 1)
    with pytest.raises(ParamsError, match='data_cache: "device": the decoded training images take'):
        build_store(paths, Resize(side, side, "bilinear"), "device", device)


@pytest.mark.usefixtures("device")
def test_images_to_evaluate_may_lie_in_page_locked_memory(paths: list[Path]) -> None:
    plain = eval_batches(paths, SIZE, 16)
    for (positions, images), (_, expected) in zip(eval_batches(paths, SIZE, 16, pinned=True), plain, strict=True):
        assert len(positions) == len(images)
        assert images.is_pinned()
        assert torch.equal(images, expected)
