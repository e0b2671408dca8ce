"""The GPU benchmark: its steps end to end at toy size on the CPU, and what keeps a step's failure to itself."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._C._autograd import DeviceType

from benchmarks.gpu.__main__ import STEPS, main
from benchmarks.gpu.checks import spread_of_ties
from benchmarks.gpu.profiling import kernels_of
from benchmarks.gpu.speeds import long_minutes
from benchmarks.gpu.steps import FAILED, Rows, run_step
from benchmarks.report import Report, Row
from data.lmdb.writing import pack_dataset
from data.options import DataOptions
from data.synthetic.dataset import make_synthetic
from data.synthetic.options import SyntheticOptions
from evaluate.core.retrieval.distances import FeatureDistances
from utils.errors import ParamsError

ALL = range(1, len(STEPS) + 1)


def rehearse(folder: Path, *arguments: str) -> dict[int, dict[str, list[Row]]]:
    """Take steps at toy size; returns the tables of each."""
    with suppress(SystemExit):  # a row has failed
        main(["--device", "cpu", "--toy", "--minutes", "20", "--out", str(folder / "gpu"), *arguments])
    written = {number: folder / f"gpu_step{number}.json" for number in ALL}
    return {number: json.loads(path.read_text())["tables"] for number, path in written.items() if path.exists()}


def failed(tables: dict[str, list[Row]]) -> dict[str, str]:
    """The error of each row that failed."""
    return {row[""]: row[FAILED] for rows in tables.values() for row in rows if FAILED in row}


def test_the_tests_step_names_each_test_and_the_end_of_each_failure(tmp_path: Path) -> None:
    file = tmp_path / "test_few.py"
    file.write_text(
        "import pytest\npytestmark = pytest.mark.gpu\ndef test_good(): pass\n"
        "def test_bad(): raise RuntimeError('nothing here')\n"
        "@pytest.mark.skip('no card')\ndef test_left_out(): pass\n"
    )
    (tmp_path / "test_broken.py").write_text("import a_package_that_is_not_there\n")
    tables = rehearse(tmp_path, "--step", "1", "--tests", str(tmp_path))[1]
    assert {row[""]: row["result"] for row in tables[""]} == {
        "test_broken.py": "failed",
        "test_few.py::test_good": "passed",
        "test_few.py::test_bad": "failed",
        "test_few.py::test_left_out": "skipped",
    }
    assert failed(tables) == {
        "test_few.py::test_bad": "RuntimeError: nothing here",
        "test_broken.py": "ModuleNotFoundError: No module named 'a_package_that_is_not_there'",
    }


def test_a_cuda_device_is_needed_unless_the_cpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match="no CUDA device"):
        main(["--step", "1"])
    for wrong in (["--step", "10"], [], ["--step", "3", "--settings", "5"]):
        with pytest.raises(SystemExit):
            main(wrong)


def some_fail(rows: Rows, _: object) -> None:
    with rows.measuring("first") as row:
        row["value"] = 1.0
    with rows.measuring("second") as row:
        row["value"] = 2.0
        raise ValueError("at first\nRuntimeError: out of something\nadvice")
    with rows.measuring("third", "apart") as row:
        row["value"] = 3.0
    raise KeyError("not within a row")


def dies(rows: Rows, _: object) -> None:
    with rows.measuring("first"):
        os.kill(os.getpid(), signal.SIGSEGV)


def hangs(rows: Rows, folder: Path) -> None:
    with rows.measuring("first") as row:
        row["value"] = 1.0
    with rows.measuring("second"):
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (folder / "pid").write_text(str(process.pid))
        process.wait()


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()


def tables_of(work: Callable[[Rows, Any], None], argument: Any, seconds: float) -> dict[str, list[Row]]:
    report, seen = Report("nothing"), []
    run_step(work, argument, seconds, report, lambda: seen.append(1))
    assert len(seen) == sum(len(rows) for rows in report.tables.values())
    return report.tables


def test_a_row_that_fails_does_not_stop_the_others() -> None:
    assert tables_of(some_fail, None, 60) == {
        "": [
            {"": "first", "value": 1.0},
            {"": "second", "value": 2.0, FAILED: "RuntimeError: out of something"},
            {"": "the step", FAILED: "'not within a row'"},
        ],
        "apart": [{"": "third", "value": 3.0}],
    }


@pytest.mark.slow
def test_a_step_that_dies_says_so() -> None:
    assert tables_of(dies, None, 60) == {"": [{"": "first", FAILED: f"exit code {-signal.SIGSEGV}"}]}


@pytest.mark.slow
def test_a_step_without_time_left_keeps_its_rows_and_leaves_no_process(tmp_path: Path) -> None:
    rows = tables_of(hangs, tmp_path, 24)[""]
    assert rows == [{"": "first", "value": 1.0}, {"": "second", FAILED: "stopped after 0.4 minutes"}]
    time.sleep(0.2)
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_no_time_at_all_is_reported(tmp_path: Path) -> None:
    assert failed(rehearse(tmp_path, "--step", "7", "--minutes", "0")[7]) == {"start": "stopped after 0.0 minutes"}


def test_kernels_are_those_of_the_device() -> None:
    def average(name: str, kind: DeviceType, time: float, *, note: bool = False) -> SimpleNamespace:
        return SimpleNamespace(
            key=name, count=4, device_type=kind, is_user_annotation=note, self_device_time_total=time,
            self_cpu_time_total=1000.0,
        )  # fmt: skip

    averages = [
        average("aten::mm", DeviceType.CPU, 3000.0),  # the kernel's time counts once
        average("short", DeviceType.CUDA, 1000.0),
        average("gemm", DeviceType.CUDA, 3000.0),
        average("## Call CompiledFxGraph", DeviceType.CUDA, 4000.0, note=True),
    ]
    assert kernels_of(averages, 2, "cuda") == [("gemm", 2.0, 1.5), ("short", 2.0, 0.5)]
    assert [kernel.milliseconds for kernel in kernels_of(averages[:1], 2, "cpu")] == [0.5]


def test_minutes_of_a_long_training_follow_from_epochs_after_the_first() -> None:
    images, num_test = 1000, 500
    first = {"seconds": 70.0, "examples_per_second": 20.0}
    plain = {"seconds": 2.0, "examples_per_second": 500.0}
    with_evaluation = {**plain, "seconds": 3.0, "metrics": {}}
    assert long_minutes([first, plain], images, num_test, 100.0) is None
    # 73 seconds for the start, of which the first epoch's own 2 count with the others.
    found = long_minutes([first, plain, with_evaluation], images, num_test, 80.0)
    assert found == pytest.approx((80 - 5 - 2 + 120 * 12_936 / 500 + 24 * 19_281 / 500) / 60)


def test_the_spread_of_ties_is_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spread_of_ties("cosine", 40, 100, 8, 16, torch.device("cpu")) == 0.0
    shifted = torch.zeros(16, 100)
    shifted[3, 7], shifted[5, 9] = 0.5, -0.25
    monkeypatch.setattr(FeatureDistances, "rows", lambda self, start, stop: shifted[start:stop])
    assert spread_of_ties("cosine", 40, 100, 8, 16, torch.device("cpu")) == 0.5


@pytest.mark.slow
def test_on_the_cpu_ties_are_equal_and_metrics_those_of_the_cpu(tmp_path: Path) -> None:
    tables = rehearse(tmp_path, "--step", "7")[7]
    assert not failed(tables)
    ties, planted = tables.values()
    assert [set(row.values()) - {row[""]} for row in ties] == [{0.0}, {0.0}]
    assert [row.get("difference") for row in planted] == [None, 0.0, None, 0.0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3, 4, 5, 6, 8])
def test_steps_are_rehearsed_on_the_cpu(number: int, tmp_path: Path) -> None:
    tables = rehearse(tmp_path, "--step", str(number), "--compile", "off", "graphs")[number]
    # What the CPU cannot do is said, and nothing else fails.
    assert all("graphs" in error or "fp16" in error for error in failed(tables).values()), failed(tables)
    rows = [row for row in next(iter(tables.values())) if FAILED not in row]
    checks: dict[int, Callable[[], bool]] = {
        2: lambda: [row.get("result") for row in rows][:2] == ["same bits"] * 2 and "trained" in rows[3]["result"],
        3: lambda: rows[0]["host ms"] > 0 and len(list(tables.values())[1]) == 8,
        4: lambda: [row[""] for row in rows] == ["textbook", "bf16"] and rows[0]["times textbook"] == 1.0,
        5: lambda: len(rows[0]["images/s"]) == 1 and 0 <= rows[0]["mAP"] <= 1,
        6: lambda: [row[""] for row in rows] == ["bf16"],
        8: lambda: [row["difference at the end"] == 0 for row in rows] == [True, False, False, False],
    }
    assert checks[number](), tables
    assert len(failed(tables)) == 1


@pytest.mark.slow
def test_a_recipe_is_trained_on_a_packed_data_set(tmp_path: Path) -> None:
    few = SyntheticOptions(train_identities=8, test_identities=2, cameras=2, distractors=0, junk=0)
    packed = tmp_path / "few.lmdb"
    pack_dataset(packed, DataOptions(batches_dir=str(make_synthetic(tmp_path / "few", few, workers=1))))
    rows = rehearse(tmp_path, "--step", "9", "--data", str(packed), "--set", "epoch=3", "seed=5")[9][""]
    assert [row[""] for row in rows] == ["epoch 1", "epoch 2", "epoch 3", "whole training"]
    assert [row["minutes of 120 epochs"] is None for row in rows[:3]] == [True, False, False]
    assert all(0 <= row["mAP"] <= 1 for row in rows[:3])


@pytest.mark.slow
def test_compiled_steps_are_rehearsed_too(tmp_path: Path) -> None:
    tables = rehearse(tmp_path, "--step", "3", "--compile", "on")[3]
    assert not failed(tables)
    assert tables[""][0]["first step, s"] > tables[""][0]["ms a step"] / 1e3
