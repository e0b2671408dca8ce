"""A data set packed by train.py trains and evaluates as its folder does, to the last bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Script

Market = Callable[[Path], Path]


def trained(script: Script, name: str, batches_dir: Path) -> tuple[list[dict], dict]:
    """Train one epoch and evaluate the best model: the lines of metrics.jsonl and the evaluator's result."""
    setting = f"batches_dir={batches_dir}"
    script.succeed("train.py", "--sub_working_dir", name, "--set", setting, "epoch=1")
    best = f"model_path=runs/{name}/model_best.pth"
    script.succeed("evaluator.py", "eval_params.json", "--set", best, "pictures_dir=pictures")
    records = (script.folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in records], json.loads((script.folder / "eval_result.json").read_text())


def test_a_packed_data_set_trains_and_evaluates_as_its_folder(script: Script, make_market: Market) -> None:
    market = make_market(script.folder / "market")
    script.write_params()
    shutil.copy(ROOT / "eval_params.json", script.folder)
    process = script.succeed("train.py", "--operation", "build_lmdb", "--out", "packed.lmdb")
    assert 'written: packed.lmdb, 0 MiB; train on it with --set batches_dir="packed.lmdb"' in process.stderr
    assert sorted(path.name for path in script.folder.glob("*.lmdb*")) == ["packed.lmdb"]

    of_folder, evaluated_folder = trained(script, "folder", market)
    (script.folder / "pictures").rename(script.folder / "pictures_of_folder")
    shutil.rmtree(market)
    of_file, evaluated_file = trained(script, "file", script.folder / "packed.lmdb")
    assert len(of_folder) == len(of_file) == 1
    for key in ("losses", "measures", "metrics", "lr", "step"):
        assert of_file[0][key] == of_folder[0][key], key
    assert evaluated_file["metrics"] == evaluated_folder["metrics"] == of_file[0]["metrics"]
    pictures = [(script.folder / name / "rank_list.png").read_bytes() for name in ("pictures", "pictures_of_folder")]
    assert pictures[0] == pictures[1]


@pytest.mark.slow
def test_a_report_shows_pictures_from_the_packed_file(script: Script, make_market: Market) -> None:
    make_market(script.folder / "market")
    script.write_params(batches_dir="packed.lmdb", epoch=1)
    script.succeed("train.py", "--operation", "build_lmdb", "--out", "packed.lmdb", "--set", "batches_dir=market")
    shutil.rmtree(script.folder / "market")
    script.succeed("train.py", "--sub_working_dir", "run")
    (script.folder / "eval_params.json").write_text("{}")
    script.succeed("evaluator.py", "eval_params.json", "--set", "report_path=report.html")
    report = (script.folder / "report.html").read_text()
    assert "The pictures are missing" not in report
    assert report.count("data:image/jpeg;base64,") > 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "market"), "--out market: the name of an LMDB file must end in .lmdb"),
        (("--out", "taken.lmdb"), "--out taken.lmdb: exists already; remove it or name another file"),
        (("--out", "missing/x.lmdb"), "--out missing/x.lmdb: there is no folder missing; make it first"),
        (("--out", "x.lmdb", "--set", "batches_dir=taken.lmdb"), "batches_dir: taken.lmdb is packed already"),
        (("--out", "x.lmdb", "--set", "batches_dir=missing"), "missing: no such folder; set batches_dir"),
    ],
)
def test_mistakes_of_packing(arguments: tuple[str, ...], message: str, script: Script, make_market: Market) -> None:
    make_market(script.folder / "market")
    (script.folder / "taken.lmdb").write_text("text")
    script.write_params()
    assert message in script.mistake("train.py", "--operation", "build_lmdb", *arguments)
    assert sorted(path.name for path in script.folder.iterdir()) == ["market", "params.json", "taken.lmdb"]


def test_a_file_that_was_not_packed_is_refused_by_training(script: Script) -> None:
    (script.folder / "notes.lmdb").write_text("text")
    script.write_params(batches_dir="notes.lmdb")
    message = script.mistake("train.py", "--sub_working_dir", "run")
    assert "notes.lmdb: cannot be read as LMDB" in message
    assert "pack the data set again with train.py --operation build_lmdb" in message
    assert not (script.folder / "runs" / "run").exists()
