import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from config.params import Params
from engine.fit import Means, Meter, fit, keep_best
from engine.outline import describe_training
from engine.recorder import Recorder
from engine.run_folder import RunFolder
from engine.training import Training, build_training, read_training_data
from evaluate.core.plugins import Evaluation
from losses.criterion import Losses
from tests.conftest import TINY_PARAMS
from utils.checkpoint import load_checkpoint
from utils.errors import DataError, UserError
from utils.precision import BF16, FP32, Precision


def values(loss: float) -> Losses:
    return Losses({"softmax": torch.tensor(loss)}, {"accuracy": torch.tensor(0.5)})


def test_the_meter_averages_since_the_last_reading_and_over_all() -> None:
    meter = Meter()
    for loss in (1.0, 3.0):
        meter.add([values(loss)])
    assert meter.read() == Means({"softmax": 2.0}, {"accuracy": 0.5})
    meter.add([values(7.0), values(9.0)])
    assert meter.read().losses == {"softmax": 8.0}
    assert meter.means() == Means({"softmax": 5.0}, {"accuracy": 0.5})


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_diverged_training_is_told(loss: float) -> None:
    meter = Meter()
    meter.add([values(loss)])
    with pytest.raises(UserError, match="training has diverged: softmax is not finite"):
        meter.read()


@pytest.fixture
def training(tmp_path: Path, make_market: Callable[[Path], Path]) -> Training:
    raw = {**TINY_PARAMS, "batches_dir": str(make_market(tmp_path / "market")), "evaluation_params": {"type": "any"}}
    params = Params.model_validate_json(json.dumps(raw))
    silent = params.model_copy(update={"evaluation_params": params.evaluation_params.model_copy(update={"type": None})})
    training = build_training(params, read_training_data(silent), torch.device("cpu"))
    (tmp_path / "run").mkdir()
    return training


@pytest.mark.parametrize(("precision", "advice"), [(FP32, 'or set precision "bf16"'), (BF16, "take a smaller model$")])
def test_too_little_memory_is_told_with_what_to_lower(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, advice: str
) -> None:
    def step(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    monkeypatch.setattr(training.stepper, "step", step)
    training.stepper.precision = precision
    with pytest.raises(UserError, match=advice) as told, Recorder(RunFolder(str(tmp_path), "run")) as recorder:
        fit(training, RunFolder(str(tmp_path), "run"), recorder)
    doing = f"training on cpu with 8 images of 64 x 32 a batch in {precision.name}"
    assert str(told.value).startswith(f"out of memory, {doing}: CUDA out of memory. Tried to allocate 9 GiB.\n")
    assert "lower batch_sampling_params.P or K" in str(told.value)


def test_only_a_better_model_replaces_the_best(training: Training, tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path), "run")

    def offer(score: float, bias: float) -> float:
        training.network.state_dict()["backbone.bn1.bias"].fill_(bias)
        keep_best(training, folder, Evaluation(score, "mAP", {"mAP": score}, {}, {}))
        return load_checkpoint(folder.best).model["backbone.bn1.bias"][0].item()

    assert offer(0.5, 1.0) == 1.0
    assert offer(0.5, 2.0) == 1.0  # a tie keeps the earlier
    assert offer(0.4, 3.0) == 1.0
    assert offer(0.6, 4.0) == 4.0
    keep_best(training, folder, None)  # an epoch without evaluation
    assert load_checkpoint(folder.best).metrics == {"mAP": 0.6}


def test_a_state_of_something_else_is_refused(training: Training, tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    torch.save({"network": {}}, path)
    with pytest.raises(DataError, match="not the state of a training"):
        training.restore(path)
    training.save(path)
    training.restore(path)
    training.pids[0] = 99
    with pytest.raises(DataError, match="identities: the run began with"):
        training.restore(path)


def test_a_state_brings_back_every_number(training: Training, tmp_path: Path) -> None:
    training.epoch, training.step, training.best_score, training.best_accuracy = 2, 8, 0.25, 0.5
    training.save(tmp_path / "last.pth")
    training.epoch, training.step, training.best_score, training.best_accuracy = 0, 0, None, 0.0
    training.restore(tmp_path / "last.pth")
    assert (training.epoch, training.step, training.best_score, training.best_accuracy) == (2, 8, 0.25, 0.5)


@pytest.mark.parametrize(
    ("options", "acts_at"),
    [
        ({}, []),
        ({"spectral_trans": 0.3}, [0, 1, 2, 3]),
        ({"spectral_trans": 0.3, "spectral_start_epoch": 2}, [2, 3]),
        ({"spectral_trans": 0.3, "spectral_start_accuracy": 0.6}, [3]),
        ({"spectral_trans": 0.3, "spectral_start_epoch": 1, "spectral_start_accuracy": 0.2}, [1, 2, 3]),
    ],
)
def test_the_spectral_transform_waits_for_its_epoch_and_accuracy(
    training: Training, options: dict[str, float], acts_at: list[int]
) -> None:
    model = training.params.model_params.model_copy(update={"spectral_trans": 0.0, **options})
    training.params = training.params.model_copy(update={"model_params": model})
    acts = []
    for epoch, accuracy in enumerate((0.0, 0.3, 0.5, 0.7)):
        training.epoch, training.best_accuracy = epoch, accuracy
        if training.spectral_acts():
            acts.append(epoch)
    assert acts == acts_at


def test_a_schedule_that_leaves_nothing_to_learn_with_is_warned_of(training: Training, tmp_path: Path) -> None:
    train = read_training_data(
        training.params.model_copy(update={"evaluation_params": Params().evaluation_params})
    ).train
    assert "warning" not in describe_training(training.params, train)
    lr = training.params.lr.model_copy(update={"decay_step": 1, "decay_unit": "iteration"})
    assert "below a thousandth" in describe_training(training.params.model_copy(update={"lr": lr}), train)
