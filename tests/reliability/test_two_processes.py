"""Two processes that train together are stopped in the middle of an epoch, where each has averages of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.runs import Run, differences

EVERY_STEP = {"every_steps": 1, "every_minutes": 0}
LAUNCHER = ("--standalone", "--nproc-per-node=2")


class RunOfTwo(Run):
    """A training in two processes, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, batch_sampling_params="2*2", checkpoint=EVERY_STEP, model_params=SMALL)

    def stopped_in_an_epoch(self, stop: Callable[[subprocess.Popen[str]], object], *launcher: str) -> tuple[int, str]:
        """Train until an epoch's second step is saved, and stop it; the launcher's exit code, and what was told."""
        torchrun = [sys.executable, "-m", "torch.distributed.run", *LAUNCHER, *launcher, "--no-python"]
        process = subprocess.Popen(
            [*torchrun, *self.script.command("train.py", *self.arguments)],
            cwd=self.folder,
            env=self.script.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 240
        last, saves = self.path / "last.pth", set[int]()
        while len(saves) < 3:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            if self.lines() == 1 and last.exists():
                saves.add(last.stat().st_mtime_ns)
            time.sleep(0.002)
        stop(process)
        told = process.communicate(timeout=240)[1]
        return process.returncode, told

    def finish(self) -> str:
        """Train to the end; returns what was told."""
        process = self.script.run("train.py", *self.arguments, launcher=LAUNCHER[1:])
        assert process.returncode == 0, process.stderr
        return process.stderr


SMALL = {"model": "resnet_18", "feature_dim": 16, "pcb_n_parts": 2, "feature_global_dim": 8, "feature_dropout": 0.2}


def kill_the_second(launcher: subprocess.Popen[str]) -> None:
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    (second,) = (child for child in children if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"))
    os.kill(int(second), signal.SIGKILL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunOfTwo:
    """Never stopped."""
    run = RunOfTwo(tmp_path_factory.mktemp("whole") / "run")
    run.finish()
    return run


def test_a_process_is_killed_and_torchrun_starts_both_again(whole: RunOfTwo, tmp_path: Path) -> None:
    killed = RunOfTwo(tmp_path / "killed")
    code, told = killed.stopped_in_an_epoch(kill_the_second, "--max-restarts=1")
    assert code == 0, told
    assert re.search(r"resumed after step \d+, in epoch 2 of 3", told)
    assert not list(differences(killed.outcome(), whole.outcome()))


def test_both_are_asked_to_stop_and_stop_at_the_same_step(whole: RunOfTwo, tmp_path: Path) -> None:
    stopped = RunOfTwo(tmp_path / "stopped")
    code, told = stopped.stopped_in_an_epoch(lambda launcher: launcher.send_signal(signal.SIGTERM))
    assert code != 0
    command = "torchrun --nproc-per-node=2 train.py --operation resume_train --sub_working_dir run"
    assert told.count(f"go on with: {command}") == 1, told
    resumed = stopped.finish()
    assert re.search(r"resumed after step \d+, in epoch [23] of 3", resumed)
    assert not list(differences(stopped.outcome(), whole.outcome()))
