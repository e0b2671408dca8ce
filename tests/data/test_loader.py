from pathlib import Path

import pytest
import torch

from data.cache import DeviceStore, FileStore, ImageStore, RamStore
from data.decoding import Resize
from data.loader import load_batches
from utils.errors import DataError

CPU = torch.device("cpu")
SMALL = Resize(16, 8, "bilinear")
BATCHES = [[0, 3, 3], [6], [5, 1], [2, 4, 0, 6], [1]] * 4
LABELS = torch.tensor([4, 0, 2, 2, 9, 1, 0])


def stores(paths: list[Path]) -> list[ImageStore]:
    files = FileStore(paths, Resize(48, 24, "bilinear"))
    images = files.fetch(range(7))
    return [files, RamStore(images), DeviceStore(images)]


def test_batches_come_in_order_with_their_labels(paths: list[Path]) -> None:
    files, *others = stores(paths)
    for store in (files, *others):
        loaded = list(load_batches(store, LABELS, BATCHES, CPU))
        assert len(loaded) == len(BATCHES)
        for indices, batch in zip(BATCHES, loaded, strict=True):
            assert torch.equal(batch.images, files.read(indices))
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert batch.labels.tolist() == [LABELS[index].item() for index in indices]
            assert batch.labels.dtype == torch.int64


def test_batches_are_drawn_no_earlier_than_needed(paths: list[Path]) -> None:
    drawn = []

    def endless():
        while True:
            drawn.append([0])
            yield [0]

    loaded = load_batches(FileStore(paths, SMALL), LABELS, endless(), CPU)
    next(loaded)
    assert len(drawn) <= 17
    loaded.close()


def test_an_image_that_cannot_be_read_is_an_error_when_its_batch_is_due(paths: list[Path]) -> None:
    paths[5].write_bytes(b"no image")
    loaded = load_batches(FileStore(paths, SMALL), LABELS, BATCHES, CPU)
    assert [len(next(loaded).labels) for _ in range(2)] == [3, 1]
    with pytest.raises(DataError, match=r"5\.png"):
        next(loaded)
