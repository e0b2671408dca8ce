"""A script in a preloaded process does what it does in one of its own."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import Script
from tests.scripts.preloaded import ScriptServer


def test_a_preloaded_script_says_and_returns_what_a_new_process_does(script: Script, preloaded_script: Script) -> None:
    (script.folder / "params.json").write_text('{"epcoh": 1, "lr": {"base_lr": "high"}}')
    outcomes = [each.run("train.py", "--operation", "check_config") for each in (script, preloaded_script)]
    new, preloaded = ((outcome.returncode, outcome.stdout, outcome.stderr) for outcome in outcomes)
    assert new == preloaded
    assert new[0] == 2
    assert "epcoh" in new[2]
    # The next one has nothing of the one before.
    preloaded = preloaded_script.run("evaluator.py", "--help")
    assert (preloaded.returncode, preloaded.stderr) == (0, "")
    assert preloaded.stdout.startswith("usage: evaluator.py")


def test_a_script_that_takes_too_long_is_ended(script: Script, tmp_path: Path) -> None:
    with ScriptServer(script.environment()) as server, pytest.raises(subprocess.TimeoutExpired, match=r"train\.py"):
        server.run("train.py", ["--help"], script.environment(), tmp_path, tmp_path, timeout=0)
