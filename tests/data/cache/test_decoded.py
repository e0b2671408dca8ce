from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import data.cache.decoded
from data.cache.decoded import DecodedImageCache, build_image_cache
from data.images import decode
from utils.distributed import Dist
from utils.errors import DataError

IMAGE = 16 * 8 * 3


@pytest.fixture
def paths(tmp_path: Path, draw_image: Callable[..., Path]) -> list[Path]:
    return [draw_image(tmp_path / f"{index}.png", seed=index) for index in range(9)]


@pytest.mark.parametrize(("budget", "num_kept"), [(0, 0), (IMAGE - 1, 0), (5 * IMAGE, 5), (9 * IMAGE, 9), (10**9, 9)])
def test_any_number_of_threads_read_the_same_images_and_never_keep_too_many(
    paths: list[Path], budget: int, num_kept: int
) -> None:
    kept = DecodedImageCache(budget)
    order = np.random.default_rng(0).integers(0, len(paths), 400).tolist() + list(range(len(paths)))
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda index: kept.read(paths[index], 16, 8), order))
    expected = [decode(path, 16, 8) for path in paths]
    assert all(np.array_equal(image, expected[index]) for index, image in zip(order, images, strict=True))
    assert kept.used == num_kept * IMAGE
    # What is kept needs no file any more.
    for path in paths:
        path.unlink()
    found = 0
    for path in paths:
        try:
            kept.read(path, 16, 8)
        except DataError:
            continue
        found += 1
    assert found == num_kept


def test_an_image_is_kept_for_its_size(paths: list[Path]) -> None:
    kept = DecodedImageCache(10**9)
    kept.read(paths[0], 16, 8)
    assert np.array_equal(kept.read(paths[0], 32, 8), decode(paths[0], 32, 8))
    assert kept.used == 3 * IMAGE


def test_nobody_can_write_into_what_is_kept(paths: list[Path]) -> None:
    kept = DecodedImageCache(10**9)
    for _ in range(2):
        with pytest.raises(ValueError, match="read-only"):
            kept.read(paths[0], 16, 8)[...] = 0


def test_a_bad_image_is_an_error_at_every_pass(paths: list[Path]) -> None:
    paths[0].write_bytes(b"no image")
    kept = DecodedImageCache(10**9)
    for _ in range(2):
        with pytest.raises(DataError, match=r"0\.png"):
            kept.read(paths[0], 16, 8)


def test_the_processes_of_a_machine_may_use_a_quarter_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.cache.decoded, "free_memory", lambda: 4000)
    for data_cache in ("auto", "ram", "device"):
        kept = build_image_cache(data_cache)
        assert kept is not None
        assert kept.budget == 1000
    assert build_image_cache("none") is None
    monkeypatch.setattr(data.cache.decoded, "this_process", lambda: Dist(local_world_size=2))
    kept = build_image_cache("auto")
    assert kept is not None
    assert kept.budget == 500
    monkeypatch.setattr(data.cache.decoded, "free_memory", lambda: None)
    assert build_image_cache("auto") is None
