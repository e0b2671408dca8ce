"""Several processes fill one store."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import data.cache.fill as fill
from data.cache.fill import images_in_ram, images_on_device
from data.decoding import Resize
from data.images import decode
from tests.processes import run_in_processes
from utils.distributed import this_process, wait_for_all
from utils.errors import ReportedByOtherRankError, UserError

CPU = torch.device("cpu")
SMALL = Resize(16, 8, "bicubic")


class Filled(NamedTuple):
    """What one process saw of one filling."""

    decoded: list[Path]
    """The files it decoded."""
    held: torch.Tensor
    first_byte: int
    """After rank 1 has inverted its first byte."""
    error: tuple[str, str]


def fill_store(paths: list[Path], place: str) -> Filled:
    decoded: list[Path] = []
    real = fill.decode_into

    def recorded(images: torch.Tensor, paths: Sequence[Path], resize: Resize) -> None:
        decoded.extend(paths)
        real(images, paths, resize)

    fill.decode_into = recorded
    try:
        images = images_in_ram(paths, SMALL) if place == "ram" else images_on_device(paths, SMALL, CPU)
    except UserError as error:
        return Filled(decoded, torch.empty(0), 0, (type(error).__name__, str(error)))
    finally:
        fill.decode_into = real
    held = images.clone()
    wait_for_all()
    if this_process().rank == 1:
        images[0, 0, 0, 0] = 255 - images[0, 0, 0, 0]
    wait_for_all()
    return Filled(decoded, held, int(images[0, 0, 0, 0]), ("", ""))


def fill_stores(cases: list[tuple[list[Path], str]]) -> list[Filled]:
    return [fill_store(paths, place) for paths, place in cases]


def test_processes_fill_one_store_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{index}.png" for index in range(19)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)).save(path)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    # Of the files of the second case there are fewer than processes; those of the third go on after a failure.
    lists = [paths, paths[:2], [*paths, bad], paths]
    cases = [(files, place) for place in ("ram", "device") for files in lists]
    found = run_in_processes(fill_stores, 3, cases)
    for (files, place), filled in zip(cases, zip(*found, strict=True), strict=True):
        assert [path for each in filled for path in each.decoded] == files
        if bad in files:
            first, *others = (each.error for each in filled)
            assert first[0] == "UserError"
            assert "bad.png: damaged, or not an image" in first[1]
            assert others == [(ReportedByOtherRankError.__name__, "")] * 2
            continue
        expected = torch.stack([torch.tensor(decode(path, SMALL)) for path in files])
        assert [len(each.decoded) for each in filled] == ([0, 1, 1] if len(files) == 2 else [6, 6, 7])
        assert all(torch.equal(each.held, expected) for each in filled)
        # In memory there is one copy for all, of those on the devices each has its own.
        before = int(expected[0, 0, 0, 0])
        shared = place == "ram"
        assert [each.first_byte for each in filled] == [
            255 - before if shared or rank == 1 else before for rank in range(3)
        ]
