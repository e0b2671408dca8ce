"""Processes that are about to do different things find out before they do any of it."""

from pathlib import Path

import pytest
import torch

from config.params import Params
from data.samples import Dataset, Sample, fingerprint
from engine.consistency import check_environment, check_ranks_agree
from tests.processes import run_in_processes
from utils.distributed import this_process
from utils.errors import UserError

TRAIN = [Sample(Path("market/train/a.jpg"), 1, 1), Sample(Path("market/train/b.jpg"), 2, 1)]


def dataset(root: str = "market", pid: int = 2, name: str = "b.jpg", camid: int = 1) -> Dataset:
    return Dataset([TRAIN[0], Sample(Path(root) / "train" / name, pid, camid)], [], [], [])


@pytest.mark.parametrize("other", [{"pid": 3}, {"name": "c.jpg"}, {"camid": 2}])
def test_a_fingerprint_tells_data_sets_apart(other: dict) -> None:
    assert fingerprint(dataset().train) != fingerprint(dataset(**other).train)


def test_a_fingerprint_does_not_depend_on_where_the_images_lie() -> None:
    assert fingerprint(dataset().train) == fingerprint(dataset("elsewhere").train)


def compare(cases: list[tuple[dict, dict]]) -> list[str]:
    """What a process hears in cases in which the second has other params or data."""
    second = this_process().rank == 1
    heard = []
    for changed, other in cases:
        try:
            params = Params.model_validate(changed if second else {})
            check_environment(params, torch.device("cpu"))
            check_ranks_agree(params, dataset(**other) if second else dataset())
            heard.append("alike")
        except UserError as error:
            heard.append(f"{type(error).__name__}: {error}")
    return heard


def test_only_what_may_differ_may_differ() -> None:
    cases = {
        "alike": ({"batches_dir": "x", "working_dir": "y"}, {"root": "x"}),
        "params: epoch is 3, but 60 in process 0; lr.base_lr is 0.5, but 0.01 in process 0": (
            {"lr": {"base_lr": 0.5}, "epoch": 3},
            {},
        ),
        "not the data set of process 0: train differ": ({}, {"pid": 3}),
        "environment: precision is 'bf16', but 'fp32' in process 0": ({"precision": "bf16"}, {}),
        'process 1 of 2: precision: "fp16" needs a GPU': ({"precision": "fp16"}, {}),
    }
    first, second = run_in_processes(compare, 2, list(cases.values()))
    for number, message in enumerate(cases):
        assert message in first[number]
        if number == 0:
            assert second[number] == "alike"
        else:
            assert first[number].startswith("UserError: process 1 of 2: ")
            assert second[number] == "ReportedByOtherRankError: "
