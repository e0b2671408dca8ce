"""train.py --operation audit_data, as a process."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TWO, Script
from tests.scripts.conftest import FinishedRun
from train import main
from utils.errors import DataError, UserError

AUDIT = ("--operation", "audit_data", "--out")


@pytest.fixture(scope="module")
def audited(finished_training: FinishedRun) -> Script:
    """An audit of a set with a copy, a leak and a blank crop, by the network of a finished run."""
    script = finished_training.script
    flawed = script.folder / "flawed"
    shutil.copytree(script.folder / "market", flawed)
    train = flawed / "bounding_box_train"
    shutil.copy(train / "0003_c1s1_000001_00.jpg", train / "0004_c1s1_000009_00.jpg")
    shutil.copy(flawed / "query" / "0031_c2s1_000001_00.jpg", train / "0005_c1s1_000009_00.jpg")
    script.succeed("train.py", *AUDIT, "audit", "--from", str(finished_training.path / "model_best.pth"), *on(flawed))
    return script


def on(folder: Path) -> tuple[str, str]:
    return "--set", f"batches_dir={folder}"


def fixes(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_page_the_findings_and_the_corrections_are_written(audited: Script) -> None:
    out = audited.folder / "audit"
    assert sorted(path.name for path in out.iterdir()) == ["audit.html", "audit.json", "fixes.csv"]
    found: dict[str, Any] = json.loads((out / "audit.json").read_text())
    splits = [[image["split"] for image in copies["images"]] for copies in found["copies"] if not copies["difference"]]
    assert sorted(splits) == [["train", "query"], ["train", "train"]]
    dropped = {Path(line["path"]).name for line in fixes(out / "fixes.csv") if line["action"] == "drop"}
    assert "0005_c1s1_000009_00.jpg" in dropped
    page = (out / "audit.html").read_text()
    assert "Audit of flawed" in page
    assert "Leak into the test set" in page
    assert "data:image/jpeg;base64," in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_training_with_the_corrections_uses_them(audited: Script) -> None:
    flawed, corrections = audited.folder / "flawed", f"label_fixes={audited.folder / 'audit' / 'fixes.csv'}"
    before = len(list((flawed / "bounding_box_train").iterdir()))
    dropped = sum(line["action"] == "drop" for line in fixes(audited.folder / "audit" / "fixes.csv"))
    process = audited.succeed("train.py", "--operation", "check_config", *on(flawed), corrections)
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("train ")]
    assert int(line.split()[1]) == before - dropped


def test_two_processes_find_what_one_does(audited: Script) -> None:
    model = str(audited.folder / "runs" / "first" / "model_best.pth")
    settings = (*on(audited.folder / "flawed"), 'test_dirs=["market"]')
    audited.succeed("train.py", *AUDIT, "alone", "--from", model, *settings)
    audited.succeed("train.py", *AUDIT, "shared", "--from", model, *settings, processes=TWO)
    alone, shared = audited.folder / "alone", audited.folder / "shared"
    for name in ("audit.html", "audit.json", "fixes.csv"):
        assert (shared / name).read_bytes() == (alone / name).read_bytes()
    # Test images of another data set keep their own cameras.
    (leak,) = [
        each["images"]
        for each in json.loads((alone / "audit.json").read_text())["copies"]
        if len(each["images"]) == 2 and each["images"][1]["split"] == "query"
    ]
    assert [image["camid"] for image in leak] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("audit",), "--out audit: already exists and is not empty"),
        (("new", "--from", "gone.pth"), "--from gone.pth: no such file"),
        (("new", "--from", "params.json"), "params.json: not a checkpoint"),
        (("new", "--from", "runs/first/model_best.pth", "--set", "audit_params.folds=2"), "audit_params.folds: trains"),
        (("new",), "name a trained one with --from CHECKPOINT"),
        (("new", "--set", "batches_dir=gone"), "name a trained one with --from CHECKPOINT"),
        (("new", "--set", "audit_params.folds=1"), "audit_params.folds: 1 leaves no identity"),
        (("new", "--set", "audit_params.folds=12"), "audit_params.folds: 12 folds of 11 identities"),
        (
            ("new", "--set", "audit_params.folds=2", "batch_sampling_params.P=8"),
            "P: 8 .* without a fold .* has 5; lower P",
        ),
        (("new", "--set", 'batches_dir=["market", "flawed"]'), "judges one data set at a time"),
        (
            ("new", "--set", 'batches_dir=["market", "flawed"]', "label_fixes=a.csv"),
            "label_fixes: corrects the labels of one",
        ),
        (("new", "--from", "runs/first/model_best.pth", "--set", "data_layout=unlabelled"), "images have no labels"),
        (
            ("new", "--from", "runs/first/model_best.pth", "--set", "label_fixes=gone.csv"),
            "label_fixes: gone.csv: cannot be read",
        ),
    ],
)
def test_mistakes(audited: Script, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str) -> None:
    monkeypatch.chdir(audited.folder)
    with pytest.raises(UserError, match=message):
        main([*AUDIT, *arguments])
    # The same command, corrected, is not refused.
    assert not list((audited.folder / "new").glob("*"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda train: [path.unlink() for path in train.iterdir()], "no training images"),
        (lambda train: [path.unlink() for path in train.iterdir() if path.name[:4] != "0003"], "same identity, 3"),
        (lambda train: [path.unlink() for path in train.iterdir() if "_c1s1_" not in path.name], "identity of its own"),
    ],
)
def test_a_set_without_labels_to_compare_is_refused(
    audited: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    shutil.copytree(audited.folder / "market", tmp_path / "market")
    make(tmp_path / "market" / "bounding_box_train")
    monkeypatch.chdir(audited.folder)
    with pytest.raises(DataError, match=message):
        main([*AUDIT, "new", "--from", "runs/first/model_best.pth", *on(tmp_path / "market")])


@pytest.mark.slow
def test_folds_train_networks_that_judge_what_they_have_not_seen(audited: Script) -> None:
    settings = ("batch_sampling_params.P=2", "epoch=1", "audit_params.folds=2")
    command = ("train.py", *AUDIT, "folds", *on(audited.folder / "flawed"), *settings)
    audited.succeed(*command, processes=TWO)
    out = audited.folder / "folds"
    labels = [json.loads((out / f"fold_{fold}" / "params.json").read_text())["label_fixes"] for fold in (1, 2)]
    first, second = ({line["pid"] for line in fixes(audited.folder / path)} for path in labels)
    assert first.isdisjoint(second)
    assert len(first | second) == 11
    assert json.loads((out / "audit.json").read_text())["network"] == "2 folds of resnet_18"
    # As after an interruption: the first network is kept, the second is trained again.
    kept, found = (out / "fold_1" / "model_best.pth").stat().st_mtime_ns, (out / "fixes.csv").read_bytes()
    for name in ("audit.html", "audit.json", "fixes.csv"):
        (out / name).unlink()
    shutil.rmtree(out / "fold_2")
    assert "fold_1: was trained with other params" in audited.mistake(*command, "lr.base_lr=0.1")
    other = audited.folder / "other.csv"
    other.write_text("".join((out / "fold_2.csv").read_text().splitlines(keepends=True)[:2]))
    assert "images or labels" in audited.mistake(*command, f"label_fixes={other}")
    audited.succeed(*command, processes=TWO)
    assert (out / "fold_1" / "model_best.pth").stat().st_mtime_ns == kept
    assert (out / "fixes.csv").read_bytes() == found
