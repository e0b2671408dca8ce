import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT, Script


def test_a_comparison_tabulates_its_runs_once_trained(script: Script, make_market: Callable[[Path], Path]) -> None:
    make_market(script.folder / "market")
    params = script.write_params("tiny.json", epoch=1)
    out, runs = script.folder / "results" / "tiny", script.folder / "runs"
    command = [sys.executable, "-m", "benchmarks.compare", str(params), "--out", str(out), "--working_dir", str(runs)]

    def compare(*overrides: str) -> subprocess.CompletedProcess[str]:
        arguments = [*command, "--seeds", "0", "1", "--set", "momentum=0.8", *overrides]
        return subprocess.run(
            arguments, cwd=ROOT, env=script.environment(), capture_output=True, text=True, check=False
        )

    process = compare()
    assert process.returncode == 0, process.stderr
    report = json.loads(out.with_suffix(".json").read_text())
    results = report["results"][str(params)]
    assert len(results) == 2
    for seed, result in enumerate(results):
        run = runs / f"tiny_seed{seed}"
        record = json.loads((run / "metrics.jsonl").read_text())
        assert result["metrics"] == record["metrics"]
        assert set(result["untrained"]) == set(record["metrics"])
        resolved = json.loads((run / "params.json").read_text())
        assert (resolved["seed"], resolved["momentum"]) == (seed, 0.8)
    mean = sum(100 * result["metrics"]["mAP"] for result in results) / 2
    assert f"{mean:.1f} ±" in out.with_suffix(".md").read_text()
    # Finished runs are taken as they are, but not for another question.
    before = (runs / "tiny_seed0" / "model_best.pth").stat().st_mtime_ns
    assert compare().returncode == 0
    assert (runs / "tiny_seed0" / "model_best.pth").stat().st_mtime_ns == before
    refused = compare("weight_decay=0.1")
    assert refused.returncode == 2
    assert "was trained with other params" in refused.stderr
