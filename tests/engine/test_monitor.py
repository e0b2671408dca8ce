"""Which steps and losses are warned of, and which are not."""

import math
import random
from pathlib import Path

import pytest

from engine.monitor import FIRST_STEPS, MAX_FILES, SILENT_PATIENCE, DivergedError, TrainingMonitor
from utils.errors import UserError

FILES = [Path(f"train/{number:04}.jpg") for number in range(20)]
TERMS = {"softmax_global": math.nan, "triplet_global": 0.25}
WHERE = "base_lr 0.02, precision bf16"


def bad(
    monitor: TrainingMonitor, step: int = 7, terms: dict[str, float] = TERMS, files: int = 2, where: str = WHERE
) -> None:
    monitor.bad_step(step, terms, FILES[:files], where)


def test_a_step_not_applied_is_told_with_every_loss_and_the_images(caplog: pytest.LogCaptureFixture) -> None:
    monitor = TrainingMonitor(3)
    bad(monitor, files=MAX_FILES)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    told = record.getMessage()
    for part in ("step 7 was not applied", "softmax_global is not finite", "softmax_global nan, triplet_global 0.25"):
        assert part in told
    assert WHERE in told
    assert all(str(path) in told for path in FILES[:MAX_FILES])
    assert "more" not in told
    caplog.clear()
    bad(monitor, files=11)
    assert str(FILES[MAX_FILES - 1]) in caplog.text
    assert str(FILES[MAX_FILES]) not in caplog.text
    assert "and 3 more" in caplog.text


def test_only_so_many_bad_steps_in_a_row_end_a_training() -> None:
    monitor = TrainingMonitor(3)
    for _ in range(4):
        bad(monitor)
        bad(monitor)
        monitor.good_step(1, 2.0)
    bad(monitor)
    bad(monitor)
    with pytest.raises(DivergedError, match="3 steps in a row up to step 9"):
        bad(monitor, 9)
    assert issubclass(DivergedError, UserError)


def test_the_diagnosis_says_what_was_not_finite_and_what_to_do() -> None:
    monitor = TrainingMonitor(2)
    bad(monitor, terms={"softmax_global": 1.0, "triplet_global": math.inf})
    with pytest.raises(DivergedError) as caught:
        bad(monitor)
    told = str(caught.value)
    assert "triplet_global, softmax_global are not finite" in told
    for part in (WHERE, "lower lr", "lr.warmup_epoch", '"fp32"', "images", "weights are those of before"):
        assert part in told
    with pytest.raises(DivergedError, match="the losses are finite, but their gradient is not") as caught:
        bad(TrainingMonitor(1), terms={"softmax_global": 1.0}, where="base_lr 0.02, precision fp32")
    assert 'set precision to "fp32"' not in str(caught.value)


def told_of_losses(losses: list[float]) -> TrainingMonitor:
    monitor = TrainingMonitor(3)
    for step, loss in enumerate(losses):
        monitor.good_step(step, loss)
    return monitor


def test_an_exploding_loss_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    falling = [7.0 * 0.99**step for step in range(400)]
    told_of_losses(falling + [500.0] * 50 + falling + [500.0] * 50)
    (record,) = caplog.records
    assert "the loss has risen to" in record.getMessage()


def test_a_training_that_falls_back_to_where_it_began_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    told_of_losses([7.0 * 0.98**step for step in range(400)] + [6.6] * 60)
    assert "the loss has risen to" in caplog.text


@pytest.mark.parametrize("seed", range(20))
def test_ordinary_training_raises_no_alarm(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    draw = random.Random(seed)
    # Noise of a factor of two, a rise in warm-up, a batch in fifty ten times as hard, and an end near zero.
    losses = []
    for step in range(3000):
        warm_up = 1 + 20 * math.exp(-(((step - 20) / 10) ** 2))
        hard = 10.0 if draw.random() < 0.02 else 1.0
        losses.append((7.0 * 0.997**step + 1e-4) * warm_up * hard * draw.lognormvariate(0, 0.7))
    told_of_losses(losses)
    assert caplog.text == ""


def test_a_single_outlier_is_no_explosion(caplog: pytest.LogCaptureFixture) -> None:
    told_of_losses([5.0] * FIRST_STEPS + [1.0] * 200 + [100.0] + [1.0] * 200)
    assert caplog.text == ""


def test_a_branch_is_told_of_once_it_was_silent_long_enough(caplog: pytest.LogCaptureFixture) -> None:
    monitor = TrainingMonitor(3)
    for step in range(SILENT_PATIENCE - 1):
        monitor.silent_branches(["parts"], step)
    monitor.silent_branches([], 100)
    for step in range(SILENT_PATIENCE - 1):
        monitor.silent_branches(["parts", "global"], step)
    assert caplog.text == ""
    for step in range(3):
        monitor.silent_branches(["global"], step)
    (record,) = caplog.records
    assert 'the branch "global"' in record.getMessage()


def test_a_restored_one_goes_on_as_if_there_had_been_no_break(caplog: pytest.LogCaptureFixture) -> None:
    monitor = TrainingMonitor(3)
    for step in range(200):
        monitor.good_step(step, 7.0 * 0.98**step)
    monitor.silent_branches(["parts"], 1)
    bad(monitor)
    bad(monitor)
    restored = TrainingMonitor(3)
    restored.load_state_dict(monitor.state_dict())
    assert restored.state_dict() == monitor.state_dict()
    caplog.clear()
    with pytest.raises(DivergedError):
        bad(restored)
    # What is kept is a copy.
    assert monitor.state_dict() != restored.state_dict()
    assert monitor.bad_steps == 2
