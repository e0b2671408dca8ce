"""Processes that are run and measured."""

import pytest
import torch

from benchmarks.trainings import last_line, run_process
from utils.errors import UserError


def test_a_process_is_watched_and_measured() -> None:
    seen = []
    code = "import os, time; time.sleep(0.3); print(repr(os.environ.get('CUDA_VISIBLE_DEVICES')))"
    finished = run_process(["-c", code], "cpu", lambda: seen.append(1))
    assert finished.output == "''\n"  # GPUs are hidden
    assert finished.seconds > 0.3
    assert 1 < finished.peak_mib < 1000
    assert len(seen) >= 2


def test_on_a_gpu_memory_is_what_the_device_has_less_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([1000 * 2**20, 700 * 2**20])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (next(free, 900 * 2**20), 2**40))
    assert run_process(["-c", "import time; time.sleep(0.3)"], "cuda").peak_mib == 300


def test_the_last_line_of_a_failed_process_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as failure:
        run_process(["-c", "import sys; sys.exit('first line\\nparams.json: compile: wrong')"], "cpu")
    assert str(failure.value).endswith("\nexit code 1: params.json: compile: wrong")
    assert "first line" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("params.json: compile: wrong\n\n", "params.json: compile: wrong"),
        ("Traceback\n  at\ntorch._inductor.exc.InductorError: no Python.h\n\nSet TORCHDYNAMO_VERBOSE=1\n",
         "torch._inductor.exc.InductorError: no Python.h"),
    ],
)  # fmt: skip
def test_the_last_line_is_that_of_the_error(text: str, line: str) -> None:
    assert last_line(text) == line
