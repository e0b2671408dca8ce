import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.images import decode
from data.store import FileStore, MemoryStore, build_store, read_ahead, stream_images
from utils.errors import DataError


@pytest.fixture
def paths(tmp_path: Path, draw_image: Callable[..., Path]) -> list[Path]:
    return [draw_image(tmp_path / f"{index}.png", seed=index) for index in range(7)]


@pytest.mark.parametrize("store_class", [FileStore, MemoryStore])
@pytest.mark.parametrize("size", [(128, 64), (48, 24)])
def test_a_store_serves_the_decoded_images(
    paths: list[Path], store_class: type[FileStore | MemoryStore], size: tuple[int, int]
) -> None:
    images = store_class(paths, *size).read([3, 0, 3])
    assert images.shape == (3, 3, *size)
    assert images.dtype == torch.uint8
    for image, index in zip(images, (3, 0, 3), strict=True):
        assert torch.equal(image.permute(1, 2, 0), torch.tensor(decode(paths[index], *size)))


def test_data_cache_decides_what_is_kept(paths: list[Path]) -> None:
    assert isinstance(build_store(paths, 16, 8, "none"), FileStore)
    assert isinstance(build_store(paths, 16, 8, "ram"), MemoryStore)
    assert isinstance(build_store(paths, 16, 8, "auto"), MemoryStore)
    # A million images of a million pixels each are more than a quarter of any memory.
    assert isinstance(build_store(paths * 150_000, 1000, 1000, "auto"), FileStore)


def test_reading_ahead_keeps_the_order_and_stays_within_its_depth() -> None:
    started: list[int] = []

    def task(number: int) -> int:
        started.append(number)
        time.sleep(0.01 if number % 2 else 0.0)
        return number

    results = []
    for result in read_ahead(task, range(20), depth=3):
        results.append(result)
        assert len(started) <= len(results) + 3
    assert results == list(range(20))


def test_reading_ahead_works_in_other_threads_and_passes_errors_on() -> None:
    def task(number: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        if number == 2:
            raise DataError("image 2")
        return number

    results = read_ahead(task, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(DataError, match="image 2"):
        next(results)


def test_streaming_leaves_out_bad_images_only_if_told_to(paths: list[Path]) -> None:
    paths[2].write_bytes(b"")
    paths[6].write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.png"):
        list(stream_images(paths, 128, 64, batch_size=3))
    batches = list(stream_images(paths, 128, 64, batch_size=3, bad_images="skip"))
    # The last batch held nothing but a bad image.
    assert [kept for kept, _ in batches] == [[0, 1], [3, 4, 5]]
    assert [tuple(images.shape) for _, images in batches] == [(2, 3, 128, 64), (3, 3, 128, 64)]
    assert torch.equal(batches[1][1][0].permute(1, 2, 0), torch.tensor(decode(paths[3])))
