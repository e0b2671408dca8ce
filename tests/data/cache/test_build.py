"""Which store a run gets, alone and in several processes."""

import logging
from pathlib import Path

import pytest
import torch

import data.cache.build as build
from data.cache import DataCache, DeviceStore, FileStore, ImageStore, RamStore, build_store
from data.cache.build import Free, choose_place, least
from data.cache.shared import NoRoomError
from data.decoding import Resize
from tests.processes import run_in_processes
from utils.distributed import this_process
from utils.errors import ParamsError, ReportedByOtherRankError, UserError

SMALL = Resize(16, 8, "bilinear")


@pytest.mark.parametrize(
    ("asked", "ram", "device", "place"),
    [
        ("auto", 10_000, 3000, "device"),  # a third of the device, or a quarter of the memory
        ("auto", 10_000, 2999, "ram"),
        ("auto", 3999, 2999, "none"),
        ("auto", None, 2999, "none"),
        ("auto", None, 3000, "device"),
        ("auto", 4000, None, "ram"),
        ("auto", None, None, "none"),
        ("none", 0, 0, "none"),
        ("ram", 1000, None, "ram"),
        ("ram", None, 10**9, "ram"),
        ("device", 0, 1000, "device"),
    ],
)
def test_1000_bytes_are_kept_where_there_is_room(
    asked: DataCache, ram: int | None, device: int | None, place: str
) -> None:
    assert choose_place(asked, 1000, Free(ram, device)) == place


@pytest.mark.parametrize(
    ("asked", "free", "message"),
    [
        ("ram", Free(ram=2**20, device=None), r'data_cache: "ram": .* take 2 MiB, and 1 MiB are free there'),
        ("device", Free(ram=2**30, device=2**20), r'data_cache: "device": .* take 2 MiB, and 1 MiB are free there'),
        ("device", Free(ram=2**30, device=None), r'data_cache: "device" .* this run computes on the CPU; set "auto"'),
    ],
)
def test_a_place_without_room_is_refused(asked: DataCache, free: Free, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        choose_place(asked, 2**21, free)


def test_processes_reckon_with_what_the_poorest_has() -> None:
    assert least([Free(5, None), Free(3, None)]) == Free(3, None)
    assert least([Free(5, 8), Free(7, 6)]) == Free(5, 6)
    assert least([Free(5, 8), Free(None, 9)]) == Free(None, 8)


def test_data_cache_decides_what_is_kept(paths: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert isinstance(build_store(paths, SMALL, "none"), FileStore)
        assert isinstance(build_store(paths, SMALL, "ram"), RamStore)
        assert isinstance(build_store(paths, SMALL, "auto"), RamStore)
        # A million images of a million pixels each are more than a quarter of any memory.
        assert isinstance(build_store(paths * 150_000, Resize(1000, 1000, "bilinear"), "auto"), FileStore)
    none, _, auto, large = (record.getMessage() for record in caplog.records)
    assert none == '7 training images of 16x8 are decoded at every use:\n  data_cache is "none"'
    assert auto.startswith("7 training images of 16x8 are kept decoded in memory:\n  they take 0 MiB; ")
    assert "1050000 training images of 1000x1000 are decoded at every use:\n  they take 3004074 MiB; " in large


def test_images_that_fit_a_third_of_the_device_go_there(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "free_now", lambda _: Free(ram=10**9, device=3 * 7 * 16 * 8 * 3))
    store = build_store(paths, SMALL, "auto")
    assert isinstance(store, DeviceStore)
    assert torch.equal(store.read([5, 2]), FileStore(paths, SMALL).read([5, 2]))


def stores_in_process(paths: list[Path], cases: list[list[int]]) -> list[tuple[str, torch.Tensor]]:
    """For each case, free memory of each process: the kind of store, and some images from it."""
    found = []
    with pytest.raises(UserError if this_process().is_rank_zero else ReportedByOtherRankError):
        build_store(paths, SMALL, "device")
    for rams in cases:
        ram = rams[this_process().rank]
        build.free_now = lambda _, ram=ram: Free(ram, None)
        store = build_store(paths, SMALL, "auto")
        found.append((type(store).__name__, store.read([6, 0, 3])))
    return found


def test_all_processes_choose_alike(paths: list[Path]) -> None:
    enough = 4 * 7 * 16 * 8 * 3
    found = run_in_processes(stores_in_process, 2, paths, [[enough, enough], [enough, enough - 1]])
    expected = FileStore(paths, SMALL).read([6, 0, 3])
    for of_process in found:
        assert [kind for kind, _ in of_process] == ["RamStore", "FileStore"]
        assert all(torch.equal(images, expected) for _, images in of_process)


def no_room(paths: list[Path], resize: Resize) -> torch.Tensor:
    raise NoRoomError("9 MiB in /dev/shm for all processes of a machine: No space left on device")


def test_auto_goes_on_without_memory_that_cannot_be_shared(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "images_in_ram", no_room)
    with caplog.at_level(logging.INFO):
        store: ImageStore = build_store(paths, SMALL, "auto")
    assert isinstance(store, FileStore)
    assert "decoded at every use:\n  they would fit into memory, but 9 MiB in /dev/shm" in caplog.text
    with pytest.raises(ParamsError, match=r'data_cache: "ram": 9 MiB in /dev/shm .*: No space left'):
        build_store(paths, SMALL, "ram")


@pytest.mark.parametrize("data_cache", ["auto", "device"])
def test_a_device_that_turns_out_to_be_full_is_explained(
    data_cache: DataCache, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    monkeypatch.setattr(build, "images_on_device", out_of_memory)
    monkeypatch.setattr(build, "free_now", lambda _: Free(ram=10**9, device=10**9))
    with pytest.raises(UserError) as told:
        build_store(paths, SMALL, data_cache)
    what, advice = str(told.value).splitlines()
    assert what.startswith("out of memory, keeping 7 training images of 16x8 on cpu: they take 0 MiB; ")
    assert what.endswith("CUDA out of memory. Tried to allocate 9 GiB.")
    assert 'data_cache: set "ram"' in advice
