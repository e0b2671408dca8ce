from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import data.cache.decoded
from data.cache import DataCache, DecodedImageCache, build_image_cache
from data.decoding import Resize
from data.images import decode
from utils.distributed import Dist
from utils.errors import DataError

SMALL = Resize(16, 8, "bilinear")
IMAGE = 16 * 8 * 3


@pytest.mark.parametrize(("budget", "num_kept"), [(0, 0), (IMAGE - 1, 0), (5 * IMAGE, 5), (7 * IMAGE, 7), (10**9, 7)])
def test_any_number_of_threads_read_the_same_images_and_never_exceed_the_budget(
    paths: list[Path], budget: int, num_kept: int
) -> None:
    cache = DecodedImageCache(budget)
    order = np.random.default_rng(0).integers(0, len(paths), 400).tolist() + list(range(len(paths)))
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda index: cache.read(paths[index], SMALL), order))
    expected = [decode(path, SMALL) for path in paths]
    assert all(np.array_equal(image, expected[index]) for index, image in zip(order, images, strict=True))
    assert cache.used == num_kept * IMAGE
    # Cached images do not need their files any more.
    for path in paths:
        path.unlink()
    found = 0
    for path in paths:
        try:
            cache.read(path, SMALL)
        except DataError:
            continue
        found += 1
    assert found == num_kept


def test_an_image_is_cached_read_only_and_by_how_it_is_resized(paths: list[Path]) -> None:
    cache = DecodedImageCache(10**9)
    for _ in range(2):
        with pytest.raises(ValueError, match="read-only"):
            cache.read(paths[0], SMALL)[...] = 0
    for other in (Resize(32, 8, "bilinear"), SMALL._replace(interpolation="bicubic")):
        assert np.array_equal(cache.read(paths[0], other), decode(paths[0], other))
    assert cache.used == 4 * IMAGE


def test_the_processes_of_a_machine_share_a_quarter_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def budget(data_cache: DataCache, free: int | None, processes: int) -> int | None:
        monkeypatch.setattr(data.cache.decoded, "free_memory", lambda: free)
        monkeypatch.setattr(data.cache.decoded, "this_process", lambda: Dist(local_world_size=processes))
        cache = build_image_cache(data_cache)
        return None if cache is None else cache.budget

    assert [budget(place, 4000, 1) for place in ("auto", "ram", "device", "none")] == [1000, 1000, 1000, None]
    assert [budget("auto", free, 2) for free in (4000, None)] == [500, None]
