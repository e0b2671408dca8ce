import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.generator import BLUR, NOISE, outcome, spoilt, table_of
from benchmarks.trainings import Job
from tests.conftest import ROOT, TINY_PARAMS, Script

GAN = {"epoch": 2, "ngf": 4, "ndf": 4, "batch_size": 4, "num_measured": 8, "measure_epochs": 1}


def test_spoilt_images_are_blurred_and_have_noise() -> None:
    grey = torch.full((8, 3, 64, 32), 128, dtype=torch.uint8)
    noise = spoilt(grey).float() / 255 - 128 / 255
    assert noise.std().item() == pytest.approx(NOISE, rel=0.05)
    point = torch.zeros(1, 3, 65, 65, dtype=torch.uint8)
    point[:, :, 32, 32] = 255
    # What the blur leaves of a single pixel in its place, by the definition of a Gaussian, is less than the noise.
    left = spoilt(point)[0, :, 32, 32].float().mean().item() / 255
    assert left < 1 / (2 * np.pi * BLUR**2) + 3 * NOISE


def test_what_a_run_came_to_is_read_from_its_folder(tmp_path: Path) -> None:
    job = Job("g", Path("x.json"), (), tmp_path)
    job.run.mkdir()
    (job.run / "train_log").write_text("2026-01-01 INFO before training  fid 812.5  kid 3.1\n")
    fids = [300.0, 90.5, 95.0]
    records = [
        {
            "epoch": number,
            "step": 10 * number,
            "seconds": 30.0,
            "examples_per_second": 100.0 + number,
            "losses": {"generator": 0.1},
            "measures": {"real_score": 0.5},
            "metrics": {"fid": fid, "diversity": 0.9},
        }
        for number, fid in enumerate(fids, start=1)
    ]
    (job.run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    found = outcome(job)
    assert (found["untrained_fid"], found["epoch"], found["epochs"], found["steps"]) == (812.5, 2, 3, 30)
    assert found["metrics"]["fid"] == 90.5
    assert found["last_metrics"]["fid"] == 95.0
    assert (found["all_losses_finite"], found["minutes"], found["examples_per_second"]) == (True, 1.5, 102.0)
    scale = {"images": 10, "halves": 1.0, "blur": 2.0, "noise": 0.05, "spoilt": 109.4, "spoilt_diversity": 0.8}
    report = {"date": "", "hardware": "", "versions": {}, "recipe": "", "overrides": [], "scale": scale}
    table = table_of({**report, "runs": [{"seed": 7, **found}]})
    assert "109.4" in table
    assert "| 7 | 812 | 90.5 |" in table


def test_generators_are_trained_once_and_tabulated(script: Script, make_market: Callable[[Path], Path]) -> None:
    make_market(script.folder / "market")
    model = {**TINY_PARAMS["model_params"], "spectral_trans": 0}
    script.write_params(model_params=model, gan_params=GAN, epoch=1, evaluation_params={"type": None})
    assert script.run("train.py", "--sub_working_dir", "reid").returncode == 0
    out = script.folder / "results" / "tiny"
    command = [sys.executable, "-m", "benchmarks.generator", "--config_path", str(script.folder / "params.json")]
    command += ["--measured_by", str(script.folder / "runs" / "reid"), "--working_dir", str(script.folder / "runs")]
    command += ["--out", str(out), "--seeds", "1", "2", "--jobs", "2"]
    generator = script.folder / "runs" / "generator_seed1" / "generator.pth"
    times = []
    for _ in range(2):
        process = subprocess.run(
            command, cwd=ROOT, env=script.environment(), capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr
        times.append(generator.stat().st_mtime_ns)
    # The second time nothing was left to train.
    assert times[0] == times[1]
    report = json.loads(out.with_suffix(".json").read_text())
    assert [run["seed"] for run in report["runs"]] == [1, 2]
    assert report["scale"]["spoilt"] > report["scale"]["halves"] > 0
    assert all(run["all_losses_finite"] for run in report["runs"])
    assert out.with_suffix(".md").read_text().count("\n| ") == 3
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.size == (16 * 32, 8 * 64)
