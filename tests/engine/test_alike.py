"""Processes that are about to do different things find out before they do any of it."""

from pathlib import Path

import pytest

from config.params import Params
from data.samples import Dataset, Sample
from engine.alike import check_alike, fingerprint
from tests.processes import run_in_processes
from utils.distributed import this_process
from utils.errors import UserError

TRAIN = [Sample(Path("market/train/a.jpg"), 1, 1), Sample(Path("market/train/b.jpg"), 2, 1)]


def dataset(root: str = "market", pid: int = 2, name: str = "b.jpg", camid: int = 1) -> Dataset:
    return Dataset([TRAIN[0], Sample(Path(root) / "train" / name, pid, camid)], [], [], [])


@pytest.mark.parametrize("other", [{"pid": 3}, {"name": "c.jpg"}, {"camid": 2}])
def test_a_fingerprint_tells_data_sets_apart(other: dict) -> None:
    assert fingerprint(dataset()) != fingerprint(dataset(**other))


def test_a_fingerprint_does_not_depend_on_where_the_images_lie() -> None:
    assert fingerprint(dataset()) == fingerprint(dataset("elsewhere"))
    assert fingerprint(dataset()) != fingerprint(Dataset([], dataset().train, [], []))


def compare(changed: dict, other: dict) -> str:
    """What a process hears in which the second has other params or data."""
    second = this_process().rank == 1
    try:
        check_alike(Params.model_validate(changed if second else {}), dataset(**other) if second else dataset())
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    return "alike"


def test_only_what_may_differ_may_differ() -> None:
    assert run_in_processes(compare, 2, {"batches_dir": "x", "working_dir": "y"}, {"root": "x"}) == ["alike"] * 2
    for changed, other, message in (
        ({"lr": {"base_lr": 0.5}, "epoch": 3}, {}, "epoch is 3, but 60 in process 0; lr.base_lr is 0.5, but 0.01 in"),
        ({}, {"pid": 3}, "not the data set that process 0 has: 2 train, 0 query, 0 gallery, 0 val"),
    ):
        first, second = run_in_processes(compare, 2, changed, other)
        assert first.startswith("UserError: process 1 of 2: ")
        assert message in first
        assert second == "ToldElsewhereError: "
