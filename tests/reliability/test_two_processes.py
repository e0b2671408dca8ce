"""Two processes that train together are stopped in the middle of an epoch, where each has averages of its own."""

import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ONE, TWO, Started, torchrun
from tests.reliability.runs import Reached, Run, differences

SMALL = {"model": "resnet_18", "feature_dim": 16, "pcb_n_parts": 2, "feature_global_dim": 8, "feature_dropout": 0.2}


class RunOfTwo(Run):
    """A training in two processes, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        checkpoint = {"every_steps": 1, "every_minutes": 0}
        averaged = {"model_params": SMALL, "ema_decay": 0.9}
        super().__init__(folder, batch_sampling_params="2*2", checkpoint=checkpoint, **averaged)

    def start(self, launcher: Sequence[str] = ()) -> Started:
        processes = ONE if launcher else TWO
        return self.script.start("train.py", *self.arguments, processes=processes, launcher=launcher)


def in_an_epoch(run: Run) -> Reached:
    """The second step of the second epoch is saved."""
    last, saves = run.path / "last.pth", set[int]()

    def reached() -> bool:
        if run.lines() == 1 and last.exists():
            saves.add(last.stat().st_mtime_ns)
        return len(saves) >= 3

    return reached


def kill_the_second(launcher: int) -> None:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    (second,) = (child for child in children if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"))
    os.kill(int(second), signal.SIGKILL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunOfTwo:
    """Never stopped."""
    run = RunOfTwo(tmp_path_factory.mktemp("whole") / "run")
    run.finish()
    return run


@pytest.mark.slow
def test_a_process_is_killed_and_torchrun_starts_both_again(whole: RunOfTwo, tmp_path: Path) -> None:
    killed = RunOfTwo(tmp_path / "killed")
    with killed.start(torchrun("--nproc-per-node=2", "--max-restarts=1")) as training:
        training.wait_until(in_an_epoch(killed), "a step within the second epoch")
        kill_the_second(training.process.pid)
        process = training.finish()
    assert process.returncode == 0, process.stderr
    assert re.search(r"resumed after step \d+, in epoch 2 of 3", process.stderr)
    assert not list(differences(killed.outcome(), whole.outcome()))


@pytest.mark.slow
def test_both_are_asked_to_stop_and_stop_at_the_same_step(whole: RunOfTwo, tmp_path: Path) -> None:
    stopped = RunOfTwo(tmp_path / "stopped")
    code, told = stopped.stopped_at(in_an_epoch, signal.SIGTERM)
    assert code == 143
    assert told.count("torchrun --nproc-per-node=2 train.py --operation resume_train --sub_working_dir run") == 1, told
    assert re.search(r"resumed after step \d+, in epoch [23] of 3", stopped.finish())
    assert not list(differences(stopped.outcome(), whole.outcome()))


@pytest.mark.slow
def test_a_process_that_is_killed_stops_the_others_and_the_run_can_go_on(whole: RunOfTwo, tmp_path: Path) -> None:
    killed = RunOfTwo(tmp_path / "killed")
    with killed.start(torchrun("--nproc-per-node=2")) as training:
        training.wait_until(in_an_epoch(killed), "a step within the second epoch")
        kill_the_second(training.process.pid)
        process = training.finish()
    assert process.returncode != 0
    assert "SIGKILL" in process.stderr
    alone = killed.script.run("train.py", *killed.arguments)
    assert alone.returncode == 2, "a run of two processes does not go on in one"
    killed.finish()
    assert not list(differences(killed.outcome(), whole.outcome()))
