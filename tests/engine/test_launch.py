"""Starting this command once for each device; here each is a short script, as there may be no devices."""

import logging
import sys
from pathlib import Path

import pytest

from engine.launch import launch, needs_launch
from utils.errors import ParamsError
from utils.process import LOCAL_RANK, LOCAL_WORLD_SIZE, RANK, WORLD_SIZE

SCRIPT = """
import os, pathlib, signal, sys, time
rank = os.environ["RANK"]
pathlib.Path(sys.argv[1], rank).write_text(os.environ["WORLD_SIZE"] + sys.argv[2])
if sys.argv[2] == "code" and rank == "1":
    sys.exit(2)
if sys.argv[2] == "killed" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] != "done":
    time.sleep(60)
"""


@pytest.mark.parametrize(("way", "code"), [("done", 0), ("code", 2), ("killed", 1)])
def test_all_processes_run_the_command_and_end_with_the_first_that_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str, code: int
) -> None:
    caplog.set_level(logging.ERROR)
    assert launch(2, [sys.executable, "-c", SCRIPT, str(tmp_path), way]) == code
    assert [(tmp_path / rank).read_text() for rank in "01"] == [f"2{way}"] * 2
    assert ("process 1 was killed (SIGKILL)" in caplog.text) == (way == "killed")


def test_only_the_first_command_of_several_devices_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [needs_launch(parallels) for parallels in ((), (1,), (0, 1))] == [False, False, True]
    with pytest.raises(ParamsError, match="there is no GPU 2; this machine has 2"):
        needs_launch((0, 2))
    for name, value in ((RANK, "0"), (WORLD_SIZE, "2"), (LOCAL_RANK, "0"), (LOCAL_WORLD_SIZE, "2")):
        monkeypatch.setenv(name, value)
    assert not needs_launch((0, 1))
