"""train.py and evaluator.py from the first image to the last file, as processes."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import ROOT, TINY_PARAMS, Script
from tests.runs import weights_of
from tests.scripts.conftest import FinishedRun

Market = Callable[[Path], Path]
START = ("--operation", "start_train", "--sub_working_dir")


@pytest.fixture
def finished(finished_training: FinishedRun) -> FinishedRun:
    return finished_training


def test_the_screen_tells_what_happens(finished: FinishedRun) -> None:
    output = finished.messages
    for line in (
        r"computing on the CPU: \d+ cores",
        r"train +31 +11 +3 +0 +0",
        r"query +7 +7 +1 +0 +0",
        r"gallery +14 +6 +3 +1 +1",
        r"1 identities have one image only",
        r"1 training identities are seen by one camera only",
        r"1 of 7 query images have no true match in the gallery",
        r"2 epochs of 4 steps of 8 images; 11 identities\nresnet_18 with 11\.\d+ million parameters, embedding of 24",
        r"before training",
        r"epoch 2/2  loss \d+\.\d+  accuracy \d\.\d+  \d+ examples/s",
        r"rank1 +rank5 +rank10 +mAP",
    ):
        assert re.search(line, output), f"{line}\nnot in\n{output}"
    first_lines = output.partition("before training")[0].splitlines()
    assert [line for line in first_lines if len(line) > 80 and str(finished.script.folder) not in line] == []
    log = (finished.path / "train_log").read_text()
    assert "computing on the CPU" in log
    assert re.search(r"torch \d+\.\d+", log)


def test_metrics_jsonl_has_one_object_per_epoch(finished: FinishedRun) -> None:
    records = finished.records
    assert [record["epoch"] for record in records] == [1, 2]
    assert [record["step"] for record in records] == [4, 8]
    for record in records:
        softmax = {"softmax_parts", "softmax_global", "softmax_parts_spectral", "softmax_global_spectral"}
        assert set(record["losses"]) == softmax | {"triplet_global"}
        assert {"seconds", "examples_per_second", "lr", "measures"} < set(record)
        assert {"rank1", "rank5", "rank10", "mAP", "mAP_trapezoid", "mINP"} <= set(record["metrics"])
        assert all(0 <= value <= 1 for value in record["metrics"].values())
    assert records[0]["lr"]["base_lr"] > records[1]["lr"]["base_lr"]


def test_the_checkpoint_is_that_of_the_best_epoch(finished: FinishedRun) -> None:
    checkpoint = torch.load(finished.path / "model_best.pth", weights_only=True)
    best = max(finished.records, key=lambda record: record["metrics"]["mAP"])
    assert checkpoint["metrics"] == best["metrics"]
    assert not any(name.startswith(("module.", "_orig_mod.")) for name in checkpoint["model"])


def test_the_files_of_a_run_hold_no_auto_for_its_images(finished: FinishedRun) -> None:
    saved = json.loads((finished.path / "params.json").read_text())
    checkpoint = torch.load(finished.path / "model_best.pth", weights_only=True)
    for params in (saved, checkpoint["params"]):
        augmentation = params["data_augmentation"]
        assert (augmentation["normalisation"], augmentation["interpolation"]) == ("imagenet", "bilinear")


def test_tensorboard_shows_curves_and_images(finished: FinishedRun) -> None:
    events = EventAccumulator(str(finished.path))
    events.Reload()
    tags = events.Tags()
    assert {"train/batch", "evaluation/rank_list"} <= set(tags["images"])
    curves = {"train/softmax_parts", "train/accuracy", "train/base_lr", "evaluation/mAP", "epoch/examples_per_second"}
    assert curves <= set(tags["scalars"])
    # Before training, then after each epoch.
    assert [event.step for event in events.Scalars("evaluation/mAP")] == [0, 4, 8]
    recorded = [record["metrics"]["mAP"] for record in finished.records]
    assert [event.value for event in events.Scalars("evaluation/mAP")][1:] == pytest.approx(recorded)


def test_the_evaluator_reproduces_the_best_epoch(finished: FinishedRun) -> None:
    shutil.copy(ROOT / "eval_params.json", finished.script.folder)
    settings = ("model_path=runs/first", "pictures_dir=pictures")
    process = finished.script.succeed("evaluator.py", "eval_params.json", "--set", *settings)
    best = max((record["metrics"] for record in finished.records), key=lambda metrics: metrics["mAP"])
    result = json.loads((finished.script.folder / "eval_result.json").read_text())
    assert result["metrics"] == pytest.approx(best, abs=1e-6)
    assert result["counts"]["num_query_without_match"] == 1
    assert f"{best['mAP']:.4%}" in process.stdout
    assert (finished.script.folder / "pictures" / "rank_list.png").is_file()


def test_fine_tuning_trains_the_classifiers_of_a_snapshot(finished: FinishedRun) -> None:
    source = finished.path / "model_best.pth"
    # Frozen layers stay as in evaluation, so what acts on them in training is off.
    model = {**TINY_PARAMS["model_params"], "global_feature_erasing": 0.0}
    params = finished.script.write_params(
        "fine_tune.json", pretrain_snapshot=str(source), fine_tune=True, tri_loss_margin=0, epoch=1, model_params=model
    )
    arguments = ("--config_path", str(params), "--sub_working_dir", "tuned")
    finished.script.succeed("train.py", "--operation", "start_train", *arguments)
    tuned, before = weights_of(finished.path.parent / "tuned"), weights_of(finished.path)
    changed = {name for name in before if not torch.equal(before[name], tuned[name])}
    assert changed == {"branches.parts.classifier.weight", "branches.global.classifier.weight"}


def test_without_evaluation_the_last_model_is_kept(script: Script) -> None:
    # Folders of images, one per identity, made from the synthetic pedestrians: no query, no gallery.
    small = {"train_identities": 6, "test_identities": 2, "distractors": 0, "junk": 0, "cameras": 2}
    script.write_params(synthetic=small)
    script.succeed("train.py", "--operation", "make_synthetic", "--out", "pedestrians")
    for image in (script.folder / "pedestrians" / "bounding_box_train").iterdir():
        target = script.folder / "folders" / f"person_{image.name[:4]}" / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        image.rename(target)
    # Random batches have neither triplets nor clusters to transform.
    model = {**TINY_PARAMS["model_params"], "spectral_trans": 0.0}
    script.write_params(
        batches_dir="folders",
        batch_sampling_params={"class_balanced": False},
        batch_size=8,
        model_params=model,
        tri_loss_margin=0,
        evaluation_params={},
    )
    script.succeed("train.py", *START, "run")
    checkpoint = torch.load(script.folder / "runs" / "run" / "model_best.pth", weights_only=True)
    assert checkpoint["metrics"] == {}
    assert checkpoint["labels"] == [1, 2, 3, 4, 5, 6]


def test_check_config_shows_what_the_weights_of_timm_expect(script: Script, make_market: Market) -> None:
    make_market(script.folder / "market")
    model = {"model": "timm:tf_efficientnet_lite0", "pcb_n_parts": 2, "feature_dim": 16}
    script.write_params(model_params=model, tri_loss_on=["parts"], data_augmentation={"normalisation": "clip"})
    shown = [
        json.loads(script.succeed("train.py", "--operation", "check_config", *overrides).stdout)["data_augmentation"]
        for overrides in ((), ("--set", "data_augmentation.normalisation=auto"))
    ]
    assert [(each["normalisation"], each["interpolation"]) for each in shown] == [
        ("clip", "bicubic"),
        ("half", "bicubic"),
    ]


def test_check_config_shows_what_a_a_run_would_be_and_trains_nothing(script: Script, make_market: Market) -> None:
    make_market(script.folder / "market")
    script.write_params()
    process = script.succeed("train.py", "--operation", "check_config", "--set", "epoch=7", "lr.base_lr=0.125")
    shown = json.loads(process.stdout)
    assert (shown["epoch"], shown["lr"]["base_lr"]) == (7, 0.125)
    augmentation = shown["data_augmentation"]
    assert (augmentation["normalisation"], augmentation["interpolation"]) == ("imagenet", "bilinear")
    assert "7 epochs of 4 steps of 8 images; 11 identities" in process.stderr
    assert not (script.folder / "runs").exists()


def test_a_run_can_be_left_to_the_background(script: Script, make_market: Market) -> None:
    make_market(script.folder / "market")
    script.write_params(epoch=1)
    process = script.succeed("train.py", *START, "away", "--detach")
    assert "runs/away/train_log" in process.stdout
    run = script.folder / "runs" / "away"
    deadline = time.monotonic() + 120
    while "finished" not in (run / "train_log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (run / "model_best.pth").is_file()


def test_a_background_run_that_cannot_start_says_why(script: Script) -> None:
    script.write_params()
    assert "no such folder" in script.mistake("train.py", *START, "away", "--detach")
    assert not (script.folder / "runs" / "away").exists()
