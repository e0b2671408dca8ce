import pytest

from config.params import LearningRate
from engine.optim import step_decay


def factors(options: LearningRate, steps: list[int], *, class_balanced: bool = False) -> list[float]:
    return [step_decay(options, step, 10, class_balanced=class_balanced) for step in steps]


def test_decays_every_so_many_epochs() -> None:
    options = LearningRate(decay_step=3, decay_gamma=0.1)
    assert factors(options, [0, 29, 30, 59, 60]) == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_decay_step_counts_iterations_with_class_balanced_sampling() -> None:
    options = LearningRate(decay_step=3, decay_gamma=0.5)
    assert factors(options, [0, 2, 3, 6], class_balanced=True) == pytest.approx([1, 1, 0.5, 0.25])


@pytest.mark.parametrize("class_balanced", [True, False])
def test_decay_unit_says_which(class_balanced: bool) -> None:
    epochs, iterations = (LearningRate(decay_step=3, decay_unit=unit) for unit in ("epoch", "iteration"))
    assert factors(epochs, [3, 30], class_balanced=class_balanced) == pytest.approx([1, 0.1])
    assert factors(iterations, [3], class_balanced=class_balanced) == pytest.approx([0.1])


def test_a_list_names_each_decay_and_zero_means_never() -> None:
    assert factors(LearningRate(decay_step=(2, 5)), [19, 20, 49, 50, 500]) == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    assert factors(LearningRate(decay_step=0), [0, 10**6]) == [1, 1]


def test_warm_up_rises_linearly_and_then_leaves_the_rate_alone() -> None:
    options = LearningRate(decay_step=0, warmup_epoch=2, warmup_factor=0.1)
    assert factors(options, [0, 10, 20, 21]) == pytest.approx([0.1, 0.55, 1, 1])
    assert factors(LearningRate(decay_step=0, warmup_epoch=0.5), [0, 5]) == pytest.approx([0.1, 1])


def test_warm_up_and_decay_multiply() -> None:
    options = LearningRate(decay_step=1, decay_gamma=0.5, warmup_epoch=2, warmup_factor=0.1)
    assert factors(options, [10]) == pytest.approx([0.5 * 0.55])
