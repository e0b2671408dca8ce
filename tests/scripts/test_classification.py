"""An image classification from its one params file: trained, kept, evaluated again, as processes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tests.conftest import ROOT, Script

SHAPES: dict[str, tuple[str, tuple[int, int, int]]] = {
    "brick": ("rectangle", (190, 70, 40)),
    "leaf": ("ellipse", (60, 160, 60)),
    "pond": ("ellipse", (50, 90, 200)),
    "sand": ("rectangle", (220, 200, 110)),
}
TRAIN = ("--config_path", "recipes/classification.json", "--sub_working_dir")
SMALL = ("epoch=4", "batch_size=8", "lr.decay_step=[3]", "lr.warmup_epoch=0")


@pytest.fixture(scope="module")
def make_classes() -> Callable[[Path], Path]:
    """Writes root/{train,val}/CLASS/*.png: 4 kinds of coloured shapes of any size and place on any background."""

    def make(root: Path) -> Path:
        rng = np.random.default_rng(0)
        for split, number in (("train", 20), ("val", 8)):
            for name, (shape, colour) in SHAPES.items():
                (root / split / name).mkdir(parents=True)
                for place in range(number):
                    pixels = rng.normal(rng.integers(100, 156, 3), 20, (64, 64, 3)).clip(0, 255)
                    image = Image.fromarray(pixels.astype(np.uint8))
                    left, top = (int(start) for start in rng.integers(2, 24, 2))
                    size = int(rng.integers(20, 38))
                    getattr(ImageDraw.Draw(image), shape)([left, top, left + size, top + size], fill=colour)
                    image.save(root / split / name / f"{place}.png")
        return root

    return make


class TrainedClassifier:
    """A run trained once for all the tests that only look at it."""

    def __init__(self, folder: Path, make_classes: Callable[[Path], Path]) -> None:
        make_classes(folder / "datasets" / "classes")
        shutil.copytree(ROOT / "recipes", folder / "recipes")
        shutil.copy(ROOT / "params.json", folder)
        shutil.copy(ROOT / "eval_params.json", folder)
        self.script = Script(folder)
        self.path = folder / "runs" / "first"
        self.messages = self.script.succeed("train.py", *TRAIN, "first", "--set", *SMALL).stderr

    @property
    def best(self) -> dict[str, float]:
        lines = (self.path / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line)["metrics"] for line in lines), key=lambda metrics: metrics["top1"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_classes: Callable[[Path], Path]) -> TrainedClassifier:
    return TrainedClassifier(tmp_path_factory.mktemp("classes"), make_classes)


def test_the_recipe_learns_to_classify(trained: TrainedClassifier) -> None:
    assert trained.best["top1"] >= 0.9
    assert set(trained.best) == {"top1", "mean_class_accuracy", "worst_class_accuracy"}
    checkpoint = torch.load(trained.path / "model_best.pth", weights_only=True)
    assert checkpoint["metrics"] == trained.best
    assert checkpoint["labels"] == [1, 2, 3, 4]
    for line in (
        r"train +80 +4",
        r"val +32 +4",
        r"top5 left out: always 100% of 4 classes",
        r"val: 32 images, \d+ images/s",
    ):
        assert re.search(line, trained.messages), f"{line}\nnot in\n{trained.messages}"


def test_the_evaluator_gives_the_same_numbers_and_the_picture(trained: TrainedClassifier) -> None:
    process = trained.script.succeed("evaluator.py", "eval_params.json", "--set", "pictures_dir=pictures")
    result = json.loads((trained.script.folder / "eval_result.json").read_text())
    assert result["metrics"] == pytest.approx(trained.best, abs=1e-6)
    assert result["score"] == "top1"
    assert result["counts"] == {"num_images": 32, "num_classes": 4, "num_classes_without_images": 0}
    assert f"{trained.best['top1']:.4%}" in process.stdout
    with Image.open(trained.script.folder / "pictures" / "confusion_matrix.png") as picture:
        assert picture.size[0] > 4 * 46


def test_the_report_has_every_class(trained: TrainedClassifier) -> None:
    trained.script.succeed("evaluator.py", "eval_params.json", "--set", "report_path=report.html")
    page = (trained.script.folder / "report.html").read_text()
    assert "Confusion matrix" in page
    for name in SHAPES:
        assert f">{name}</th>" in page


def test_a_class_that_is_not_trained_stops_the_run_before_it_begins(trained: TrainedClassifier) -> None:
    root = trained.script.folder / "datasets"
    shutil.copytree(root / "classes", root / "more")
    (root / "more" / "val" / "moss").mkdir()
    Image.new("RGB", (64, 64)).save(root / "more" / "val" / "moss" / "0.png")
    more = ("--set", *SMALL, "batches_dir=datasets/more")
    message = trained.script.mistake("train.py", *TRAIN, "stranger", *more)
    assert "1 of the validation classes have no training images: moss" in message
    assert not (trained.script.folder / "runs" / "stranger").exists()
