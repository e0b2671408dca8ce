"""The benchmark of the host's work: the whole command, briefly."""

import json
import subprocess
import sys

import pytest

from benchmarks.host import PARTS
from tests.conftest import ROOT, Script


@pytest.mark.slow
def test_the_command_measures_every_part(script: Script) -> None:
    out = script.folder / "host"
    command = [sys.executable, "-W", "error", "-m", "benchmarks.host", "--steps", "3", "--out", str(out)]
    process = subprocess.run(command, cwd=ROOT, env=script.environment(), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    rows = {row[""]: row["least"] for row in json.loads(out.with_suffix(".json").read_text())["tables"][""]}
    assert rows.keys() == {"all", *PARTS}
    parts = [rows[name] for name in PARTS]
    assert min(parts) > 0
    assert sum(parts) < rows["all"]
