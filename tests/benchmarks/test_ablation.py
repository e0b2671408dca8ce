import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import trainings
from benchmarks.ablation import Recipe, outcome, parse_arguments, plan, read_recipes, row_of
from benchmarks.chart import draw_chart
from benchmarks.trainings import Job, train_all
from tests.conftest import ROOT, Script
from utils.errors import DataError, ParamsError, UserError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, **content: Any) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_a_recipe_is_compared_with_the_one_it_extends(write: Write) -> None:
    write("base")
    paths = [
        write("plain", extends="base.json", model_params={"neck": "none", "pcb_n_parts": 4}),
        write("bn", extends="plain.json", model_params={"neck": "bn"}),
        write("adam", extends="bn.json", optimizer="adam", lr={"base_lr": 0.00035, "decay_step": [4, 5]}, seed=5),
        write("student", extends="adam.json", distillation={"teacher": "runs/bn_seed0", "lambda_logits": 1.0}),
    ]
    recipes = read_recipes(paths, ["epoch=3"])
    parents = {recipe.name: recipe.parent for recipe in recipes}
    assert parents == {"plain": "", "bn": "plain", "adam": "bn", "student": "adam"}
    changes = [recipe.changes for recipe in recipes]
    assert changes[:2] == ["", "neck none → bn"]
    assert changes[2] == "optimizer sgd → adam, base_lr 0.01 → 0.00035, decay_step 40 → [4, 5]"
    assert changes[3].startswith("teacher bn, lambda_logits 0.0 → 1.0")


def test_recipes_of_one_name_are_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    with pytest.raises(ParamsError, match="several recipes are called a;"):
        read_recipes([write("a"), write("b"), write("deeper/a")], [])


@pytest.mark.parametrize("file", ["", "/model_best.pth"])
def test_a_student_learns_from_the_run_of_its_own_seed(write: Write, file: str) -> None:
    learning = {"teacher": f"runs/ablation/teacher_seed0{file}", "lambda_logits": 1.0}
    paths = [write("student", distillation=learning), write("teacher")]
    args = parse_arguments([*map(str, paths), "--working_dir", "elsewhere", "--set", "epoch=2", "--out", "out"])
    student, teacher = read_recipes(args.recipes, args.set)
    job = plan(student, 2, [student, teacher], args.set, args.working_dir)
    assert (job.name, job.needs) == ("student_seed2", {"teacher_seed2"})
    settings = ("epoch=2", "working_dir=elsewhere", "seed=2")
    assert job.settings == (*settings, f"distillation.teacher=elsewhere/teacher_seed2{file}")
    # Alone, it takes the teacher that its file names.
    assert plan(student, 2, [student], args.set, args.working_dir).settings == settings


def test_the_last_evaluation_counts_not_the_best(tmp_path: Path) -> None:
    job = Job("run", tmp_path / "run.json", (), tmp_path)
    job.run.mkdir()
    best, last = ({"rank1": value, "mAP": value, "mINP": value} for value in (0.9, 0.5))

    def record(*metrics: dict[str, float]) -> None:
        rows = [{"examples_per_second": 50.0 + 20 * place, "metrics": each} for place, each in enumerate(metrics)]
        (job.run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    record(best, last)
    assert outcome(job) == {**last, "epochs": 2, "examples_per_second": 60.0}
    record(best, {"rank1": 0.5, "mAP": 0.5})
    with pytest.raises(DataError, match="gives no mINP"):
        outcome(job)


def test_a_row_has_percents_and_the_pooled_gain() -> None:
    def runs(*mean_aps: float) -> list[dict[str, float]]:
        return [{"rank1": v, "mAP": v, "mINP": v, "epochs": 5, "examples_per_second": 80.0} for v in mean_aps]

    plain, bn = Recipe(Path("plain.json"), "", ""), Recipe(Path("bn.json"), "plain", "neck none → bn")
    row = row_of(bn, {"plain": runs(0.40, 0.42, 0.44), "bn": runs(0.61, 0.60, 0.65)})
    assert row["mAP"] == pytest.approx([61, 60, 65])
    pooled = math.sqrt((statistics.variance([40, 42, 44]) + statistics.variance([61, 60, 65])) / 2)
    assert row["gain in mAP"] == f"+20.0 ± {pooled:.1f}"
    assert row_of(bn, {"plain": runs(0.4), "bn": runs(0.6)})["gain in mAP"] == "+20.0"
    assert row_of(plain, {"plain": runs(0.4)})["gain in mAP"] == ""


def test_the_chart_is_the_same_every_time_and_grows_with_the_rows(tmp_path: Path) -> None:
    first, second, small = (tmp_path / f"{name}.png" for name in ("first", "second", "small"))
    for path in (first, second):
        draw_chart(path, "Title", {"a": [40, 42, 44], "b": [61, 60, 65]}, {"a": "", "b": "a"})
    draw_chart(small, "Title", {"a": [40.0]}, {"a": ""})
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as picture, Image.open(small) as smaller:
        assert picture.width == smaller.width
        assert picture.height > smaller.height


class Trainings:
    """Starts short scripts in place of train.py."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
        self.folder, self.scripts = folder, scripts
        self.begun: list[tuple[str, set[str]]] = []
        monkeypatch.setattr(trainings, "start", self.start)

    def job(self, name: str, *needs: str) -> Job:
        return Job(name, Path("none.json"), (), self.folder, frozenset(needs))

    def start(self, job: Job, at_once: int) -> subprocess.Popen[bytes]:
        job.run.mkdir(exist_ok=True)
        self.begun.append((job.name, {path.parent.name for path in self.folder.glob("*/model_best.pth")}))
        script = self.scripts.get(job.name, f"import pathlib; pathlib.Path({str(job.run)!r}, 'model_best.pth').touch()")
        return subprocess.Popen([sys.executable, "-S", "-c", script])


def test_a_teacher_is_trained_before_its_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Trainings(tmp_path, monkeypatch)
    jobs = [fake.job("student", "teacher", "other"), fake.job("other"), fake.job("teacher")]
    train_all(jobs, 2)
    train_all(jobs, 2)  # finished runs are not repeated
    assert [name for name, _ in fake.begun] == ["other", "teacher", "student"]
    assert fake.begun[2][1] == {"other", "teacher"}


def test_after_a_failure_nothing_else_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Trainings(tmp_path, monkeypatch, bad="raise SystemExit(3)")
    with pytest.raises(UserError, match=r"bad \(exit code 3\)"):
        train_all([fake.job("bad"), fake.job("good"), fake.job("later"), fake.job("student", "bad")], 2)
    assert [name for name, _ in fake.begun] == ["bad", "good"]
    assert (tmp_path / "good" / "model_best.pth").exists()


def test_runs_that_need_each_other_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Trainings(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="need each other: a, b"):
        train_all([fake.job("a", "b"), fake.job("b", "a"), fake.job("c")])


def test_an_interrupt_lets_every_run_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import time\ntry: open({0!r}, 'w'); time.sleep(60)\nexcept KeyboardInterrupt: open({1!r}, 'w')"
    fake = Trainings(tmp_path, monkeypatch, a=script.format(str(tmp_path / "began"), str(tmp_path / "saved")))

    def interrupt(_: float) -> None:
        if (tmp_path / "began").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_all([fake.job("a"), fake.job("b")], 1)
    assert (tmp_path / "saved").exists()
    assert [name for name, _ in fake.begun] == ["a"]


@pytest.mark.slow
def test_the_command_trains_what_is_missing(script: Script, make_market: Callable[[Path], Path]) -> None:
    make_market(script.folder / "market")
    base = script.write_params("base.json", epoch=1)
    changed = script.folder / "changed.json"
    changed.write_text(json.dumps({"extends": "base.json", "label_smoothing": 0.1}))
    out, runs = script.folder / "results" / "tiny", script.folder / "runs"

    def ablation(*overrides: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks.ablation", str(base), str(changed), "--working_dir", str(runs)]
        command += ["--out", str(out), "--seeds", "1", "--jobs", "2", "--set", "momentum=0.8", *overrides]
        return subprocess.run(command, cwd=ROOT, env=script.environment(), capture_output=True, text=True, check=False)

    process = ablation()
    assert process.returncode == 0, process.stderr
    rows = json.loads(out.with_suffix(".json").read_text())["tables"][""]
    assert [(row["recipe"], row["extends"]) for row in rows] == [("base", ""), ("changed", "base")]
    assert rows[1]["changes"] == "label_smoothing 0.0 → 0.1"
    for row in rows:
        folder = runs / f"{row['recipe']}_seed1"
        assert row["mAP"] == [100 * json.loads((folder / "metrics.jsonl").read_text())["metrics"]["mAP"]]
        resolved = json.loads((folder / "params.json").read_text())
        assert (resolved["seed"], resolved["momentum"]) == (1, 0.8)
    assert out.with_suffix(".png").stat().st_size > 0
    refused = ablation("weight_decay=0.1")
    assert refused.returncode == 2
    assert "trained with other params" in refused.stderr
