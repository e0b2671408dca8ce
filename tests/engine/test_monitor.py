"""What is said of bad steps, of losses and of samplers, and what is not."""

import math
import random
import time
from pathlib import Path

import numpy as np
import pytest

from data.samplers import pk_batches, random_batches
from engine.monitor import FIRST_STEPS, MAX_FILES, SILENT_PATIENCE, DivergedError, TrainingMonitor, sampler_complaint
from utils.errors import UserError

FILES = [Path(f"train/{number:04}.jpg") for number in range(20)]
TERMS = {"softmax_global": math.nan, "triplet_global": 0.25}
WHERE = "base_lr 0.02, precision bf16"


def bad(
    health: TrainingMonitor, step: int = 7, terms: dict[str, float] = TERMS, files: int = 2, where: str = WHERE
) -> None:
    health.bad_step(step, terms, FILES[:files], where)


def test_a_step_not_applied_is_told_with_every_loss_and_the_images(caplog: pytest.LogCaptureFixture) -> None:
    health = TrainingMonitor(3)
    bad(health, files=MAX_FILES)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    told = record.getMessage()
    for part in ("step 7 was not applied", "softmax_global is not finite", "softmax_global nan, triplet_global 0.25"):
        assert part in told
    assert WHERE in told
    assert all(str(path) in told for path in FILES[:MAX_FILES])
    assert "more" not in told
    caplog.clear()
    bad(health, files=11)
    assert str(FILES[MAX_FILES - 1]) in caplog.text
    assert str(FILES[MAX_FILES]) not in caplog.text
    assert "and 3 more" in caplog.text


def test_only_so_many_bad_steps_in_a_row_end_a_training() -> None:
    health = TrainingMonitor(3)
    for _ in range(4):
        bad(health)
        bad(health)
        health.good_step(1, 2.0)
    bad(health)
    bad(health)
    with pytest.raises(DivergedError, match="3 steps in a row up to step 9"):
        bad(health, 9)
    assert issubclass(DivergedError, UserError)


def test_the_diagnosis_says_what_was_not_finite_and_what_to_do() -> None:
    health = TrainingMonitor(2)
    bad(health, terms={"softmax_global": 1.0, "triplet_global": math.inf})
    with pytest.raises(DivergedError) as caught:
        bad(health)
    told = str(caught.value)
    assert "triplet_global, softmax_global are not finite" in told
    for part in (WHERE, "lower lr", "lr.warmup_epoch", '"fp32"', "images", "No such step was applied"):
        assert part in told
    with pytest.raises(DivergedError, match="the losses are finite, but their gradient is not") as caught:
        bad(TrainingMonitor(1), terms={"softmax_global": 1.0}, where="base_lr 0.02, precision fp32")
    assert 'set precision to "fp32"' not in str(caught.value)


def told_of_losses(losses: list[float]) -> TrainingMonitor:
    health = TrainingMonitor(3)
    for step, loss in enumerate(losses):
        health.good_step(step, loss)
    return health


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
    health = TrainingMonitor(3)
    for step in range(SILENT_PATIENCE - 1):
        health.silent_branches(["parts"], step)
    health.silent_branches([], 100)
    for step in range(SILENT_PATIENCE - 1):
        health.silent_branches(["parts", "global"], step)
    assert caplog.text == ""
    for step in range(3):
        health.silent_branches(["global"], step)
    (record,) = caplog.records
    assert 'the branch "global"' in record.getMessage()


def test_a_restored_one_goes_on_as_if_there_had_been_no_break(caplog: pytest.LogCaptureFixture) -> None:
    health = TrainingMonitor(3)
    for step in range(200):
        health.good_step(step, 7.0 * 0.98**step)
    health.silent_branches(["parts"], 1)
    health.complain("sampler", "")
    health.complain("sampler", "the batches are odd")
    bad(health)
    bad(health)
    restored = TrainingMonitor(3)
    restored.restore(health.state())
    assert restored.state() == health.state()
    caplog.clear()
    restored.complain("sampler", "the batches are odd")
    assert caplog.text == ""
    with pytest.raises(DivergedError):
        bad(restored)
    # What is kept is a copy.
    assert health.state() != restored.state()
    assert health.bad_steps == 2


LABELS = [index // 10 for index in range(1000)]


def complaint(
    batches: list[list[int]],
    labels: list[int] = LABELS,
    previous: list[list[int]] | None = None,
    *,
    wants_triplets: bool = False,
) -> str:
    return sampler_complaint(batches, labels, previous, len(labels), wants_triplets)


def test_samplers_that_do_not_shuffle_or_are_stuck_are_told_of() -> None:
    rng = np.random.default_rng(0)
    fine = pk_batches(LABELS, 8, 4, rng)
    assert "those of the epoch before" in complaint(fine, previous=[list(batch) for batch in fine])
    assert "batch 3 holds one image only" in complaint([*fine[:3], [5] * 32, *fine[3:]])
    assert "1 of 32 batches hold one identity only" in complaint([*fine, [*range(10), *range(10)]])
    assert "no batch holds two images of one identity" in complaint(
        [list(range(start, 1000, 10)) for start in range(10)], wants_triplets=True
    )
    # The same image twice makes no pair.
    assert "no batch holds two images" in complaint([[0, 10, 0, 10]] * 30, wants_triplets=True)
    assert "no batch holds two identities" in complaint([[0, 1]], [0, 0], wants_triplets=True)
    stuck = [[index for index in batch if index >= 20] for batch in random_batches(1000, 50, rng)]
    assert "2 identities (class 0 is the first) were never drawn" in complaint(stuck)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize(
    "sizes",
    [[1, 1], [1, 7], [3] * 3, [10] * 100, [1] * 300, [1, 1, 200], [2] * 9 + [50]],
    ids=lambda sizes: str(len(sizes)),
)
def test_the_samplers_of_a_run_are_not_complained_of(sizes: list[int], seed: int) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    before, now = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    for P, K in ((2, 1), (2, 2), (2, 4), (len(sizes), 2)):
        previous, batches = pk_batches(labels, P, K, before), pk_batches(labels, P, K, now)
        has_pairs = (
            K > 1 and max(sizes) > 1 and any(len(set(batch)) > len({labels[i] for i in batch}) for batch in batches)
        )
        assert complaint(batches, labels, previous, wants_triplets=has_pairs) == "", (P, K)
    for batch_size in {1, 2, min(8, len(labels)), len(labels)}:
        previous, batches = (
            random_batches(len(labels), batch_size, before),
            random_batches(len(labels), batch_size, now),
        )
        assert complaint(batches, labels, previous) == "", batch_size


def test_a_large_epoch_is_looked_at_in_one_pass() -> None:
    """Counts look-ups rather than seconds."""

    class Counting(list[int]):
        looked_up = 0

        def __getitem__(self, index: int) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
            self.looked_up += 1
            return super().__getitem__(index)

    labels = Counting(index // 20 for index in range(30_000))
    batches = pk_batches(list(labels), 16, 4, np.random.default_rng(0))
    start = time.perf_counter()
    assert sampler_complaint(batches, labels, batches[::-1], 30_000, True) == ""
    print(f"{time.perf_counter() - start:.3f} s")
    assert labels.looked_up <= 30_100
