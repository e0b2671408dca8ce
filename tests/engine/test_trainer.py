from pathlib import Path

import pytest
import torch

from config.params import Params
from engine.build import Training, read_training_data
from engine.checkpointing import AsyncCheckpointer
from engine.recorder import Recorder
from engine.run_folder import RunFolder
from engine.summary import describe_training
from engine.trainer import fit
from utils.errors import UserError
from utils.precision import BF16, FP32, Precision


@pytest.mark.parametrize(("precision", "advice"), [(FP32, 'or set precision "bf16"'), (BF16, "take a smaller model$")])
def test_too_little_memory_is_told_with_what_to_lower(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, advice: str
) -> None:
    def step(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    monkeypatch.setattr(training.stepper, "gradients", step)
    training.stepper.precision = precision
    folder = RunFolder(str(tmp_path), "run")
    with (
        pytest.raises(UserError, match=advice) as told,
        Recorder(folder) as recorder,
        AsyncCheckpointer(folder.last, training.device, recorder.flush) as writer,
    ):
        fit(training, folder, recorder, writer)
    doing = f"training on cpu with 8 images of 64 x 32 a batch in {precision.name}"
    assert str(told.value).startswith(f"out of memory, {doing}: CUDA out of memory. Tried to allocate 9 GiB.\n")
    assert "lower batch_sampling_params.P or K" in str(told.value)


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
