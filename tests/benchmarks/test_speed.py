"""The speed benchmark: the whole command on tiny sizes, and that a part which fails costs no other its result."""

import json
import re
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import errors_in, measure, parse_arguments, plan_of
from benchmarks.speed_parts import Task, compared_curves
from benchmarks.speed_settings import CPU_PLAN, CUDA_PLAN, FEEDS, Setting, Variant, image_options, params_of, quick
from benchmarks.speed_tables import report_table
from data.synthetic import make_synthetic
from tests.conftest import ROOT, Script

SIDES = ("ours", "textbook")


def run(script: Script, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "benchmarks.speed", *arguments]
    environment = {**script.environment(), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("speed") / "images", image_options(24), workers=1)


def test_the_command_measures_ours_and_the_textbook(script: Script) -> None:
    out = script.folder / "results" / "tiny.v1"
    process = run(script, "--quick", "--workers", "1", "--out", str(out))
    assert process.returncode == 0, process.stderr
    report = json.loads((script.folder / "results" / "tiny.v1.json").read_text())
    assert list(report) == ["date", "hardware", "versions", "quick", "ceiling", "pipeline", "steps", "extraction"]
    assert errors_in(report) == []
    check_steps(report["steps"])
    for part in ("pipeline", "extraction"):
        assert [row["name"].partition(",")[0] for row in report[part]["rows"]] == ["ours", "ours", "textbook"]
        assert report[part]["rows"][-1]["times_textbook"] == 1
        for row in report[part]["rows"]:
            assert len(row["rounds"]) == 2
            assert row["images_per_second"] == statistics.median(row["rounds"]) > 0
    for side in SIDES:
        assert all(rate > 0 for rate in report["pipeline"]["stages"][side].values())
    assert report["pipeline"]["keeping_images"]["store"] == "RamStore"
    table = (script.folder / "results" / "tiny.v1.md").read_text()
    assert table == process.stdout.removesuffix("\n") == report_table(report)
    assert "these figures say nothing" in table
    assert str(script.folder) not in table + json.dumps(report)


def check_steps(settings: list[dict[str, Any]]) -> None:
    (setting,) = settings
    rows = {(row["name"], row["feed"]): row for row in setting["rows"]}
    assert list(rows) == [
        *(("fp32", feed) for feed in FEEDS),
        ("fp32, not channels-last", "resident"),
        *(("textbook", feed) for feed in FEEDS),
    ]
    for (name, feed), row in rows.items():
        baseline = rows["textbook", feed]["rounds"]
        ratios = [ours / theirs for ours, theirs in zip(row["rounds"], baseline, strict=True)]
        assert row["times_textbook"] == pytest.approx(statistics.median(ratios))
        assert ("first_step_seconds" in row) == ("peak_bytes" in row) == (feed == "resident")
        if feed == "loaded":
            ratios = [a / b for a, b in zip(rows[name, "resident"]["rounds"], row["rounds"], strict=True)]
            assert row["times_resident_step"] == pytest.approx(statistics.median(ratios))
        elif name != "textbook":
            shares = row["time_shares"]
            assert row["share_of_ceiling"] == pytest.approx(shares["arithmetic"] + shares["memory"])
            assert row["bound_by"] == max(shares, key=lambda part: shares[part])


def test_a_contestant_that_fails_costs_no_other_its_result(images: Path) -> None:
    # The map of 64 pixels has two rows: five stripes do not fit, which the textbook does not mind.
    bad = replace(quick(CPU_PLAN).settings[0], name="PCB-5", parts=5, dim=80, rounds=1)
    plan = replace(quick(CPU_PLAN), settings=(bad,), variants=(Variant(),))
    report: dict[str, Any] = {"date": "", "hardware": "", "versions": {}, "quick": True}
    saved = []
    measure(Task(plan, images, "cpu", 1), ("steps",), report, lambda: saved.append(report_table(report)))
    assert len(saved) == 1
    (failed,) = report["steps"]
    for row in failed["rows"]:
        assert ("error" in row) == (row["name"] != "textbook")
        assert ("rounds" in row) == (row["name"] == "textbook")
    assert "5 parts do not divide" in failed["rows"][0]["error"]
    assert len(errors_in(report)) == 2
    assert re.search(r"^\| fp32 \| resident \| failed: ValueError: 5 parts do not divide", saved[0], flags=re.MULTILINE)


def test_what_fails_outside_a_contestant_costs_no_other_part_either(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(task: Task) -> dict[str, Any]:
        raise RuntimeError("no pipeline today")

    monkeypatch.setattr("benchmarks.speed.measure_pipeline", fails)
    monkeypatch.setattr("benchmarks.speed.measure_extraction", lambda task: {"rows": []})
    report: dict[str, Any] = {}
    measure(Task(quick(CPU_PLAN), images, "cpu", 1), ("pipeline", "extraction"), report, lambda: None)
    assert report == {"pipeline": {"error": "RuntimeError: no pipeline today"}, "extraction": {"rows": []}}
    assert errors_in(report) == ["pipeline: RuntimeError: no pipeline today"]


@pytest.mark.slow
def test_compiled_steps_bf16_and_loss_curves(script: Script) -> None:
    arguments = ["--parts", "steps", "curve", "--compile", "--bf16", "--workers", "1"]
    process = run(script, "--quick", *arguments, "--out", str(script.folder / "out"))
    assert process.returncode == 0, process.stderr
    report = json.loads((script.folder / "out.json").read_text())
    rows = {(row["name"], row["feed"]): row for row in report["steps"][0]["rows"]}
    assert rows["fp32, compiled", "resident"]["first_step_seconds"] > rows["fp32", "resident"]["first_step_seconds"]
    assert rows["bf16", "resident"]["operations"] == rows["fp32", "resident"]["operations"]
    curve = report["curve"]
    assert len(curve["bf16"]) == 6
    assert len(curve["fp32"]) == 3
    # Same weights and images at the first step.
    assert curve["bf16"][0] == pytest.approx(curve["fp32"][0][0], rel=0.01)
    assert curve["bf16"][0] != curve["fp32"][0][0]
    assert "the noise." in process.stdout


@pytest.mark.slow
def test_what_a_gpu_is_asked_for_runs_on_the_cpu_in_the_same_order(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Task, "is_gpu", True)
    plan = quick(CUDA_PLAN)
    report: dict[str, Any] = {}
    measure(Task(plan, images, "cpu", 1), ("steps",), report, lambda: None)
    assert errors_in(report) == []
    rows = report["steps"][0]["rows"]
    assert [row["name"] for row in rows if row["feed"] == "resident"] == [
        *(variant.name for variant in plan.variants),
        "textbook",
    ]
    for row in rows:
        assert len(row["rounds"]) == plan.settings[0].rounds
        assert row["times_textbook"] > 0
        assert ("share_of_ceiling" in row) == (row["feed"] == "resident" and row["name"] != "textbook")
        assert ("first_step_seconds" in row) == (row["feed"] == "resident")


def test_curves_are_compared_with_the_spread_of_seeds() -> None:
    steps = 12
    first = [1.0] * steps
    result = compared_curves([1.5] * steps, [first, [2.0] * steps, [1.8] * steps])
    assert result["bf16"] == [1.5] * 6
    assert result["fp32"] == [[1.0] * 6, [2.0] * 6, pytest.approx([1.8] * 6)]
    assert result["distance"] == 0.5
    assert result["spread"] == 1.0
    assert result["within_noise"]
    assert not compared_curves([1.5] * steps, [first, [1.1] * steps, [1.2] * steps])["within_noise"]
    assert compared_curves([*range(12)], [first] * 3)["bf16"] == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]


@pytest.mark.parametrize("plan", [CPU_PLAN, CUDA_PLAN], ids=["cpu", "cuda"])
def test_every_setting_is_a_valid_training(plan: Any, images: Path) -> None:
    settings = (*plan.settings, plan.pipeline, plan.extraction, plan.curve)
    for setting in settings:
        for variant in plan.variants:
            params = params_of(setting, variant, images)
            assert params.batch_images == setting.batch
            # A part's map has whole rows, and the textbook's parts are as large as ours.
            assert -(-setting.height // (16 * setting.stride)) % max(1, setting.parts) == 0
            assert setting.dim % max(1, setting.parts) == 0


def test_settings_and_variants_are_chosen_by_arguments() -> None:
    def plan(*arguments: str) -> Any:
        return plan_of(parse_arguments(["--device", "cpu", *arguments]))

    assert plan() == CPU_PLAN
    assert plan("--settings", "2").settings == CPU_PLAN.settings[1:]
    assert [variant.name for variant in plan("--compile", "--bf16").variants] == [
        "fp32",
        "fp32, not channels-last",
        "bf16",
        "fp32, compiled",
    ]
    assert parse_arguments(["--device", "cpu"]).parts == ("pipeline", "steps", "extraction")
    assert parse_arguments(["--device", "cuda"]).parts[-1] == "curve"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda"], "there is no CUDA device"),
        (["--device", "cpu", "--settings", "3"], "there are 2, got 3"),
        (["--workers", "0"], "at least 1 expected, got 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(script: Script, arguments: list[str], message: str) -> None:
    process = run(script, *arguments, "--out", str(script.folder / "out"))
    assert process.returncode == 2
    assert message in process.stderr
    assert "Traceback" not in process.stderr
    assert not list(script.folder.iterdir())


def test_settings_can_be_told_apart() -> None:
    names = [(setting.model, setting.name, setting.batch) for setting in (*CPU_PLAN.settings, *CUDA_PLAN.settings)]
    assert len(set(names)) == len(names) - 1, "resnet_18 is measured on both kinds of device"
    assert isinstance(CPU_PLAN.settings[0], Setting)
