"""The classification plug-in from folders of images to metrics, with a network that knows colours."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from config.params import Params
from data.dataset import read_dataset
from data.features import Features, TestFeatures
from evaluate.classification_evaluate import Options, check_data, run_eval
from evaluate.core.context import EvalContext
from evaluate.core.pictures import RIGHT, WRONG
from utils.errors import DataError, ParamsError

Colour = tuple[int, int, int]
Tree = Mapping[str, Sequence[Colour]]

RED, GREEN, BLUE, GREY = (250, 0, 0), (0, 250, 0), (0, 0, 250), (125, 125, 125)
TRAIN: Tree = {"grass": [GREEN], "lips": [RED], "sky": [BLUE]}


class ColourNet(nn.Module):
    """Scores each class by the share of its own channel: class 0 is green, class 1 red, class 2 blue, the rest grey."""

    def __init__(self, labels: Sequence[int] = (1, 2, 3), num_scores: int | None = None) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.num_scores = len(labels) if num_scores is None else num_scores

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))

    def logits(self, images: Tensor) -> Tensor:
        colours = images.mean(dim=(2, 3))[:, [1, 0, 2]]
        grey = torch.full((len(images), max(0, self.num_scores - 3)), 0.5)
        return torch.cat([colours, grey], dim=1)[:, : self.num_scores]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes root/{train,val}/CLASS/*.png in plain colours."""

    def make(val: Tree, train: Tree = TRAIN) -> Path:
        for split, classes in (("train", train), ("val", val)):
            for name, colours in classes.items():
                (tmp_path / split / name).mkdir(parents=True)
                for place, colour in enumerate(colours):
                    Image.new("RGB", (8, 8), colour).save(tmp_path / split / name / f"{place}.png")
        return tmp_path

    return make


def params_for(folder: Path, net: nn.Module | None = None, keys: Mapping[str, Any] | None = None, **options: Any):
    plugin = Options.model_validate({"type": "classification_evaluate", "batch_size": 2} | options)
    common = {"batches_dir": str(folder), "img_h": 16, "img_w": 16, "evaluation_params": plugin}
    half = {"data_augmentation": {"normalisation": "half"}}
    net = ColourNet().eval() if net is None else net.eval()
    return EvalContext(Params.model_validate({**common, **half, **(keys or {})}), net)


def test_metrics_of_a_folder_small_enough_to_follow(folder):
    # Two of three lips are taken for grass and sky, where they come second and third; grass and sky are recognised.
    root = folder({"grass": [GREEN], "lips": [RED, (200, 240, 0), (100, 180, 250)], "sky": [BLUE, (0, 100, 200)]})
    result = run_eval(params_for(root, topk=(2, 1)))
    numbers = {key: float(value) for key, value in result.items() if key.startswith(("top", "mean", "worst", "num"))}
    assert numbers == {
        "top1": pytest.approx(4 / 6),
        "top2": pytest.approx(5 / 6),
        "mean_class_accuracy": pytest.approx((1 + 1 / 3 + 1) / 3),
        "worst_class_accuracy": pytest.approx(1 / 3),
        "num_images": 6,
        "num_classes": 3,
        "num_classes_without_images": 0,
    }
    assert result["score"] == "top1"
    picture = result["confusion_matrix"]
    assert (picture.dtype, picture.ndim) == (np.uint8, 3)
    full = (picture == np.array(RIGHT, dtype=np.uint8)).all(axis=2)
    assert full.sum() > 1.5 * 44**2  # two classes wholly recognised
    assert not (picture == np.array(WRONG, dtype=np.uint8)).all(axis=2).any()


def test_three_classes_with_the_default_options_simply_work(folder, caplog):
    config = params_for(folder({name: TRAIN[name] for name in TRAIN}))
    with caplog.at_level(logging.INFO):
        check_data(read_dataset(config.params), config.params)
    assert caplog.messages == [f"{config.batches_dir}: top5 left out: always 100% of 3 classes"]
    result = run_eval(config)
    assert result["top1"] == 1.0
    assert "top5" not in result


def test_the_report_is_made_when_asked_for(folder):
    root = folder({"lips": [RED, GREEN]})
    report = run_eval(params_for(root))["report"]()
    assert report.title == root.name
    assert report.subtitle == "2 images of 3 classes, resnet_50, images of 16 × 16."
    assert report.figures[0].value == "50.00%"


def test_top1_is_there_even_where_it_is_not_asked_for_and_the_picture_can_be_turned_off(folder):
    result = run_eval(params_for(folder({"lips": [RED]}), topk=(2,), confusion_classes=0))
    assert (result["top1"], result["top2"], result["score"]) == (1.0, 1.0, "top1")
    assert "confusion_matrix" not in result


def test_classes_without_validation_images_are_counted_and_left_out_of_the_mean(folder, caplog):
    config = params_for(folder({"lips": [RED, GREEN]}))
    with caplog.at_level(logging.INFO):
        check_data(read_dataset(config.params), config.params)
    assert "2 of 3 classes have no validation images" in caplog.text
    result = run_eval(config)
    assert result["num_classes_without_images"] == 2
    assert float(result["mean_class_accuracy"]) == 0.5
    assert float(result["worst_class_accuracy"]) == 0.5


def test_classes_are_the_sorted_pids_of_the_training_set(folder):
    # A gallery folder's name comes first in order, so the training classes are 2, 3 and 4.
    root = folder({"grass": [GREEN], "lips": [RED], "sky": [BLUE]})
    (root / "gallery" / "arm").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "gallery" / "arm" / "0.png")
    assert run_eval(params_for(root, ColourNet(labels=(2, 3, 4))))["top1"] == 1.0


def test_validation_classes_that_were_never_trained_are_named(folder):
    root = folder({"lips": [RED], "ash": [GREY], "zinc": [GREY]})
    config = params_for(root)
    with pytest.raises(DataError, match=f"{root}: 2 of the validation classes have no training images: ash, zinc;"):
        check_data(read_dataset(config.params), config.params)
    with pytest.raises(DataError, match="ash, zinc"):
        run_eval(config)


@pytest.mark.parametrize("labels", [(1, 2), (1, 2, 3, 4), (1, 2, 4)])
def test_another_data_set_than_the_networks_is_refused(folder, labels):
    root = folder({"lips": [RED]})
    message = f"{root}: the 3 classes .* are not the {len(labels)} that the network was trained on"
    with pytest.raises(DataError, match=message):
        run_eval(params_for(root, ColourNet(labels=labels)))


def test_a_class_left_out_of_training_as_unreadable_is_no_other_data_set(folder):
    root = folder({"grass": [GREEN], "lips": [RED]})
    (root / "train" / "sky" / "0.png").write_bytes(b"no image")
    net = ColourNet(labels=(1, 2))
    assert run_eval(params_for(root, net, {"bad_images": "skip"}))["num_classes"] == 2
    with pytest.raises(DataError, match="are not the 2 that the network"):
        run_eval(params_for(root, net))
    # Its validation images are an error all the same.
    shutil.copytree(root / "val" / "lips", root / "val" / "sky")
    with pytest.raises(DataError, match="no training images: sky;"):
        run_eval(params_for(root, net, {"bad_images": "skip"}))


def test_a_folder_without_validation_images_is_told_what_is_missing(folder):
    config = params_for(folder({}))
    message = f"{config.batches_dir}: no validation images; they are looked for in val/CLASS/ beside train/CLASS/"
    with pytest.raises(DataError, match=message):
        check_data(read_dataset(config.params), config.params)
    with pytest.raises(DataError, match=message):
        run_eval(config)


def test_a_market_folder_is_told_that_it_has_none(make_market, tmp_path):
    config = params_for(make_market(tmp_path / "market"))
    with pytest.raises(DataError, match="Data sets in Market-1501's layout have none: evaluate them with market_eval"):
        check_data(read_dataset(config.params), config.params)


def test_params_that_train_no_classifier_are_refused(folder):
    config = params_for(folder({"lips": [RED]}), keys={"tri_loss_lambda_cls": 0, "tri_loss_margin": 0.3})
    with pytest.raises(ParamsError, match="tri_loss_lambda_cls: 0 trains no classifier"):
        check_data(read_dataset(config.params), config.params)


def test_a_network_without_class_scores_is_refused(folder):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    root = folder({"lips": [RED]})
    message = r"evaluation_params.type: .*Sequential, the network to evaluate, gives embeddings only; .*market_evaluate"
    with pytest.raises(ParamsError, match=message):
        run_eval(params_for(root, net))
    with pytest.raises(ParamsError, match="gives embeddings only"):
        run_eval(params_for(root, ColourNet(labels=())))


def test_features_from_a_file_have_no_class_scores(folder):
    features = Features(torch.ones(1, 2), torch.tensor([1]), torch.tensor([1]), [])
    context = EvalContext(params_for(folder({"lips": [RED]})).params, features=TestFeatures(features, features))
    with pytest.raises(ParamsError, match="a feature file holds embeddings only"):
        run_eval(context)


def test_more_scores_than_labels_are_a_mistake_of_the_caller(folder):
    with pytest.raises(ValueError, match="5 class scores for 3 labels"):
        run_eval(params_for(folder({"lips": [RED]}), ColourNet(num_scores=5)))


def test_names_that_cannot_be_shown_do_not_stop_the_evaluation(folder):
    odd = "li\nps\udcff"
    train = {"grass": [GREEN], odd: [RED], "sky": [BLUE]}
    result = run_eval(params_for(folder({odd: [RED, GREEN]}, train)))
    assert result["top1"] == 0.5
    assert result["confusion_matrix"].ndim == 3
