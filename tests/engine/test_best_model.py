import logging
from pathlib import Path

import pytest

from engine import best_model
from engine.build import Training
from engine.checkpointing import BestCheckpoint
from engine.trainer import checkpoint_of
from evaluate.core.plugins import Evaluation
from models.network import ReidNetwork
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import DataError


@pytest.fixture
def best(training: Training, tmp_path: Path) -> BestCheckpoint:
    return BestCheckpoint(training, tmp_path / "model_best.pth")


def training_of(best: BestCheckpoint) -> Training:
    assert isinstance(best.training, Training)
    return best.training


def network_of(best: BestCheckpoint) -> ReidNetwork:
    return training_of(best).network


def offer(best: BestCheckpoint, score: float, bias: float) -> None:
    """Offer a model that is known by a bias of its own."""
    network_of(best).state_dict()["backbone.bn1.bias"].fill_(bias)
    evaluation = Evaluation(score, "mAP", {"mAP": score}, {}, {})
    best.offer(score, lambda: checkpoint_of(training_of(best), evaluation))


def kept(best: BestCheckpoint) -> float:
    return load_checkpoint(best.path).model["backbone.bn1.bias"][0].item()


def test_only_a_better_model_replaces_the_best(best: BestCheckpoint) -> None:
    offer(best, 0.5, 1.0)
    assert kept(best) == 1.0
    offer(best, 0.5, 2.0)  # a tie keeps the earlier
    assert kept(best) == 1.0
    offer(best, 0.4, 3.0)
    assert kept(best) == 1.0
    offer(best, 0.6, 4.0)
    assert kept(best) == 4.0
    best.try_again()  # an epoch without evaluation
    assert load_checkpoint(best.path).metrics == {"mAP": 0.6}
    assert best.training.best_score == 0.6


def test_without_evaluation_the_last_model_is_kept(best: BestCheckpoint) -> None:
    for bias in (1.0, 2.0):
        network_of(best).state_dict()["backbone.bn1.bias"].fill_(bias)
        best.offer(None, lambda: checkpoint_of(training_of(best), None))
        assert kept(best) == bias
    assert load_checkpoint(best.path).metrics == {}


def test_a_model_that_cannot_be_written_waits_in_memory(
    best: BestCheckpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, checkpoint: object) -> None:
        raise DataError(f"{path}: cannot be written: No space left on device")

    offer(best, 0.5, 1.0)
    monkeypatch.setattr(best_model, "save_checkpoint", full)
    offer(best, 0.7, 2.0)
    assert "No space left on device; training goes on" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING
    # A state saved now must not claim a score whose model would be lost with the process.
    assert (kept(best), best.training.best_score) == (1.0, 0.5)
    offer(best, 0.6, 3.0)  # better than the file's, not than the one that waits
    with pytest.raises(DataError, match="No space left"):
        best.settle()
    monkeypatch.setattr(best_model, "save_checkpoint", save_checkpoint)
    best.settle()
    assert (kept(best), best.training.best_score) == (2.0, 0.7)
    best.settle()
