import math

import pytest
import torch

from engine.meter import Means, Meter, StepClock
from losses.loss import Losses
from tests.engine.conftest import Clock
from tests.processes import run_in_processes
from utils.distributed import this_process

YES, NO = torch.tensor(True), torch.tensor(False)


def values(loss: float, triplet: float = 1.0, accuracy: float = 0.5) -> Losses:
    terms = {"softmax": torch.tensor(loss), "triplet": torch.tensor(triplet)}
    return Losses(terms, {"accuracy": torch.tensor(accuracy)})


def add(meter: Meter, number: int, *losses: float, finite: torch.Tensor = YES) -> None:
    images = [[10 * number + place, 10 * number + place + 5] for place in range(len(losses))]
    meter.add(number, images, [values(loss) for loss in losses], finite, {})


def test_means_are_those_since_the_last_reading_and_of_the_epoch() -> None:
    meter = Meter()
    add(meter, 0, 1.0)
    add(meter, 1, 3.0)
    assert [step.number for step in meter.collect()] == [0, 1]
    assert meter.read() == Means({"softmax": 2.0, "triplet": 1.0}, {"accuracy": 0.5})
    add(meter, 2, 7.0, 9.0)
    meter.collect()
    assert meter.read().losses["softmax"] == 8.0
    assert meter.means().losses["softmax"] == 5.0
    meter.begin_epoch()
    assert meter.means() == meter.read() == Means({}, {})


def test_the_means_do_not_depend_on_when_they_are_collected() -> None:
    # Thirds are no floating point numbers, so that any other order of additions gives other bits.
    losses = [1 / 3, 1e8 / 3, -1e8 / 3, 2 / 3, 1e-9]
    found = []
    for often in (1, 2, 5):
        meter = Meter()
        for number, loss in enumerate(losses):
            add(meter, number, loss, finite=YES)
            if number % often == 0:
                meter.collect()
                restored = Meter()
                restored.load_state_dict(meter.state_dict())
                meter = restored
        meter.collect()
        found.append((meter.means(), meter.read()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_that_was_not_applied_is_told_with_its_images_and_spoils_no_mean(bad: float) -> None:
    meter = Meter()
    add(meter, 0, 1.0, 2.0)
    add(meter, 1, 1.0, bad, finite=NO)
    good, spoilt = meter.collect()
    assert good.is_finite
    assert good.losses == {"softmax": 1.5, "triplet": 1.0}
    assert not spoilt.is_finite
    assert not math.isfinite(spoilt.losses["softmax"])
    assert spoilt.losses["triplet"] == 1.0
    assert spoilt.bad_images == [11, 16]
    assert meter.means().losses["softmax"] == 1.5


def test_all_images_are_suspects_where_only_the_gradient_was_not_finite() -> None:
    meter = Meter()
    add(meter, 2, 1.0, 1.0, finite=NO)
    assert meter.collect()[0].bad_images == [20, 25, 21, 26]
    assert meter.read() == Means({}, {})


def test_silent_branches_are_told_of_the_steps_that_were_watched() -> None:
    meter = Meter()
    meter.add(0, [[1]], [values(1.0)], YES, {})
    meter.add(1, [[1]], [values(1.0)], YES, {"parts": NO, "global": YES})
    meter.add(2, [[1]], [values(1.0)], YES, {"parts": YES, "global": NO})
    assert [step.silent for step in meter.collect()] == [None, ("global",), ("parts",)]


def test_a_state_needs_everything_collected() -> None:
    meter = Meter()
    add(meter, 0, 1.0)
    with pytest.raises(ValueError, match="not collected"):
        meter.state_dict()


def collect_among_several() -> tuple[list[tuple[float, list[int]]], Means]:
    rank = this_process().rank
    meter = Meter()
    meter.add(0, [[0, 1, 2, 3]], [values(1.0 + rank)], YES, {})
    meter.add(1, [[4, 5, 6, 7]], [values(math.nan if rank else 2.0)], NO, {})
    return [(step.losses["softmax"], step.bad_images) for step in meter.collect()], meter.means()


def test_several_processes_have_the_same_means_and_know_whose_images_were_bad() -> None:
    first, second = run_in_processes(collect_among_several, 2)
    assert str(first) == str(second)
    assert first[0][0] == (1.5, [])
    assert first[0][1][1] == [6, 7]
    assert first[1].losses["softmax"] == 1.5


def take_steps(steps: StepClock, clock: Clock, *seconds: float) -> None:
    steps.start()
    for each in seconds:
        clock.advance(each)
        steps.end_step()
    clock.advance(7)  # an evaluation, or a break between two processes


def test_the_first_step_of_a_process_counts_in_the_time_of_an_epoch_but_not_in_its_speed(clock: Clock) -> None:
    steps = StepClock()
    take_steps(steps, clock, 60.0, 0.5, 0.25, 0.25)
    assert (steps.seconds, steps.steps_per_second) == (61.0, 3.0)
    steps.begin_epoch()
    take_steps(steps, clock, 2.0, 2.0)
    assert (steps.seconds, steps.steps_per_second) == (4.0, 0.5)


def test_an_epoch_of_the_first_step_alone_has_the_speed_of_that(clock: Clock) -> None:
    steps = StepClock()
    take_steps(steps, clock, 4.0)
    assert (steps.seconds, steps.steps_per_second) == (4.0, 0.25)


def test_a_resumed_process_has_a_first_step_of_its_own(clock: Clock) -> None:
    stopped, resumed = StepClock(), StepClock()
    take_steps(stopped, clock, 60.0, 1.0)
    resumed.load_state_dict(stopped.state_dict())
    assert resumed.state_dict() == stopped.state_dict()
    take_steps(resumed, clock, 30.0, 0.5, 0.5)
    assert (resumed.seconds, resumed.steps_per_second) == (92.0, 1.5)
