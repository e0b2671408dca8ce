import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.ablation import ROOT as BENCHMARKS_ROOT
from benchmarks.ablation import outcome, parse_arguments, plan, table_of
from benchmarks.ablation_chart import draw_chart, plot_rows
from benchmarks.rows import read_rows
from benchmarks.trainings import Job
from tests.conftest import ROOT, Script
from utils.errors import DataError


def row(name: str, extends: str, in_words: str, *mean_aps: float) -> dict[str, Any]:
    """A row as the report has it, with one run for each mAP."""
    runs = [
        {
            "seed": seed,
            "metrics": {"rank1": mean_ap + 0.1, "mAP": mean_ap, "mINP": mean_ap / 2},
            "epochs": 5,
            "examples_per_second": 80.4 + seed,
            "seconds": 50.0,
        }
        for seed, mean_ap in enumerate(mean_aps)
    ]
    return {"name": name, "extends": extends, "in_words": in_words, "runs": runs}


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "title": "What each setting does",
        "date": "2020-02-29",
        "hardware": "an abacus",
        "versions": {"python": "3.11", "torch": "2.10"},
        "overrides": ["momentum=0.8"],
        "seeds": [0, 1, 2],
        "rows": [
            row("00_plain", "", "", 0.40, 0.42, 0.44),
            row("01_bn", "00_plain", "part_bn on", 0.61, 0.60, 0.65),
            row("02_stride1", "01_bn", "last_conv_stride 2 → 1", 0.55, 0.60, 0.59),
        ],
    }


def test_the_table_says_what_each_row_changes_and_gains(report: dict[str, Any]) -> None:
    lines = table_of(report).splitlines()
    assert lines[0] == "What each setting does"
    assert lines[2] == "2020-02-29; an abacus; python 3.11, torch 2.10; seeds 0, 1, 2"
    assert lines[3] == "All with momentum=0.8"
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert table[0] == ["row", "extends", "changes", "rank-1", "mAP", "mINP", "gain in mAP", "examples/s", "epochs"]
    assert table[2] == ["00_plain", "", "", "52.0 ± 2.0", "42.0 ± 2.0", "21.0 ± 1.0", "", "81", "5"]
    plain, bn = [40, 42, 44], [61, 60, 65]
    pooled = math.sqrt((statistics.variance(plain) + statistics.variance(bn)) / 2)
    assert table[3][:3] == ["01_bn", "00_plain", "part_bn on"]
    assert table[3][6] == f"+20.0 ± {pooled:.1f}"
    assert table[4][6].startswith("-4.0 ±")


def test_a_single_seed_has_no_spread_and_a_title_is_no_duty(report: dict[str, Any]) -> None:
    report |= {"title": "", "overrides": [], "rows": [{**each, "runs": each["runs"][:1]} for each in report["rows"]]}
    text = table_of(report)
    assert text.startswith("2020-02-29;")
    assert "All with" not in text
    assert "| +21.0 |" in text
    assert "± 0.0" not in text


def test_the_chart_shows_means_seeds_and_the_row_extended(report: dict[str, Any]) -> None:
    axes = Figure().add_subplot()
    plot_rows(axes, report["rows"])
    bars = next(each for each in axes.containers if isinstance(each, BarContainer))
    assert np.allclose([bar.get_width() for bar in bars], [42, 62, 58])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["00_plain", "01_bn", "02_stride1"]
    assert axes.yaxis.get_inverted()
    dots = next(each for each in axes.collections if isinstance(each, PathCollection))
    expected = [(40, 0), (42, 0), (44, 0), (61, 1), (60, 1), (65, 1), (55, 2), (60, 2), (59, 2)]
    assert np.allclose(np.asarray(dots.get_offsets()), expected)
    parents = next(
        each for each in axes.collections if isinstance(each, LineCollection) and "extends" in str(each.get_label())
    )
    places = [(segment[:, 0].mean(), segment[:, 1].mean()) for segment in map(np.asarray, parents.get_segments())]
    assert np.allclose(places, [(42, 1), (62, 2)])
    assert [text.get_text().split() for text in axes.texts] == [["42.0"], ["62.0", "+20.0"], ["58.0", "-4.0"]]


def test_the_picture_is_the_same_every_time_and_grows_with_the_rows(report: dict[str, Any], tmp_path: Path) -> None:
    first, second, small = (tmp_path / f"{name}.png" for name in ("first", "second", "small"))
    draw_chart(report, first)
    draw_chart(report, second)
    draw_chart({**report, "rows": report["rows"][:1]}, small)
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as picture, Image.open(small) as smaller:
        assert picture.width == smaller.width
        assert picture.height > smaller.height
        assert min(picture.convert("RGB").getpixel((2, 2))) == 255  # type: ignore[type-var]


def test_a_student_learns_from_the_run_of_its_own_seed(tmp_path: Path) -> None:
    teacher, student = tmp_path / "teacher.json", tmp_path / "student.json"
    teacher.write_text("{}")
    learning = {"teacher": "runs/ablation/teacher_seed0", "lambda_logits": 1.0}
    student.write_text(json.dumps({"extends": "teacher.json", "distillation": learning}))
    args = parse_arguments(
        [str(student), str(teacher), "--working_dir", "elsewhere", "--set", "epoch=2", "--out", "out"]
    )
    rows = read_rows(args.recipes, args.set)
    job = plan(rows[0], 2, rows, args)
    assert job.name == "student_seed2"
    assert job.needs == {"teacher_seed2"}
    assert job.settings == (
        "epoch=2",
        "working_dir=elsewhere",
        "seed=2",
        "distillation.teacher=elsewhere/teacher_seed2",
    )
    assert plan(rows[1], 2, rows, args).needs == frozenset()
    # Alone, it takes the teacher that its file or --set names.
    assert plan(rows[0], 2, rows[:1], args).settings == ("epoch=2", "working_dir=elsewhere", "seed=2")


def test_the_last_evaluation_counts_not_the_best(tmp_path: Path) -> None:
    job = Job("run", tmp_path / "run.json", (), tmp_path)
    job.run.mkdir()
    best, last = ({"rank1": value, "mAP": value, "mINP": value} for value in (0.9, 0.5))
    records: list[dict[str, Any]] = [
        {"epoch": 1, "seconds": 10.0, "examples_per_second": 50.0, "metrics": best},
        {"epoch": 2, "seconds": 11.0, "examples_per_second": 70.0, "metrics": last},
    ]
    (job.run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert outcome(job) == {"metrics": last, "epochs": 2, "examples_per_second": 60.0, "seconds": 21.0}
    del records[-1]["metrics"]["mINP"]
    (job.run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(DataError, match="its evaluation gives no mINP"):
        outcome(job)


def test_without_names_all_rows_of_the_ablation_are_meant() -> None:
    assert BENCHMARKS_ROOT == ROOT
    names = [path.stem for path in parse_arguments(["--out", "x"]).recipes]
    assert names[0] == "00_plain"
    assert names == sorted(path.stem for path in (ROOT / "recipes" / "ablation").glob("*.json"))


def test_an_ablation_trains_what_is_missing_and_tabulates_it(
    script: Script, make_market: Callable[[Path], Path]
) -> None:
    make_market(script.folder / "market")
    base = script.write_params("base.json", epoch=1)
    changed = script.folder / "changed.json"
    changed.write_text(json.dumps({"extends": "base.json", "label_smoothing": 0.1}))
    out, runs = script.folder / "results" / "tiny", script.folder / "runs"
    command = [sys.executable, "-m", "benchmarks.ablation", str(base), str(changed), "--working_dir", str(runs)]
    command += ["--out", str(out), "--seeds", "1", "--jobs", "2", "--title", "Tiny"]

    def ablation(*overrides: str) -> subprocess.CompletedProcess[str]:
        arguments = [*command, "--set", "momentum=0.8", *overrides]
        return subprocess.run(
            arguments, cwd=ROOT, env=script.environment(), capture_output=True, text=True, check=False
        )

    process = ablation()
    assert process.returncode == 0, process.stderr
    report = json.loads(out.with_suffix(".json").read_text())
    assert [(each["name"], each["extends"]) for each in report["rows"]] == [("base", ""), ("changed", "base")]
    assert report["rows"][1]["changes"] == {"label_smoothing": [0.0, 0.1]}
    for each in report["rows"]:
        (run,) = each["runs"]
        folder = runs / f"{each['name']}_seed1"
        assert run["metrics"] == json.loads((folder / "metrics.jsonl").read_text())["metrics"]
        resolved = json.loads((folder / "params.json").read_text())
        assert (resolved["seed"], resolved["momentum"]) == (1, 0.8)
    table = out.with_suffix(".md").read_text()
    assert table.startswith("Tiny\n")
    assert f"| {100 * report['rows'][0]['runs'][0]['metrics']['mAP']:.1f} |" in table
    assert out.with_suffix(".png").stat().st_size > 0
    # Finished runs are taken as they are, but not for another question.
    before = (runs / "base_seed1" / "model_best.pth").stat().st_mtime_ns
    assert ablation().returncode == 0
    assert (runs / "base_seed1" / "model_best.pth").stat().st_mtime_ns == before
    refused = ablation("weight_decay=0.1")
    assert refused.returncode == 2
    assert "was trained with other params" in refused.stderr
