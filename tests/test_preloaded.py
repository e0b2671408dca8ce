"""A script in a preloaded process does what `python SCRIPT` does."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Script


def test_a_preloaded_script_prints_and_returns_what_a_new_process_does(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"epcoh": 1, "lr": {"base_lr": "high"}}')
    outcomes = [
        Script(tmp_path, preloaded).run("train.py", "--operation", "check_config") for preloaded in (False, True)
    ]
    new, preloaded = ((outcome.returncode, outcome.stdout, outcome.stderr) for outcome in outcomes)
    assert new == preloaded
    assert new[0] == 2
    assert "epcoh" in new[2]
    # The next one has nothing of the one before.
    preloaded = Script(tmp_path).run("evaluator.py", "--help")
    assert (preloaded.returncode, preloaded.stderr) == (0, "")
    assert preloaded.stdout.startswith("usage: evaluator.py")


def test_a_script_that_takes_too_long_is_ended(script: Script) -> None:
    started = script.start("train.py", "--help")
    with pytest.raises(subprocess.TimeoutExpired, match=r"train\.py"):
        started.finish(timeout=0)
    assert started.process.returncode == -signal.SIGKILL
