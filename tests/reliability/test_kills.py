"""A run that is killed at any moment and goes on ends as if nothing had happened."""

import random
import re
import signal
from pathlib import Path

import pytest

from tests.reliability.runs import (
    MOMENTS,
    Run,
    after,
    differences,
    evaluating,
    keeping_the_best,
    making_the_data_set,
    saving,
    stepping,
)
from tests.runs import DOCUMENTED, files_of, same_weights, weights_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Never stopped."""
    run = Run(tmp_path_factory.mktemp("whole") / "run")
    run.finish()
    return run


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_the_same(whole: Run, tmp_path: Path) -> None:
    # That last.pth is written after each step changes nothing but how much is done again.
    killed = Run(tmp_path / "killed", checkpoint={"every_steps": 1, "every_minutes": 0})
    for moment in (making_the_data_set, saving, keeping_the_best, evaluating, stepping):
        assert killed.stopped_at(moment)[0] == -signal.SIGKILL
    assert re.search(r"resumed after step [1-9]", killed.finish())
    # The checkpoint also holds the params, which differ in when the state is saved.
    assert same_weights(weights_of(killed.path), weights_of(whole.path))
    outcomes = killed.outcome(), whole.outcome()
    for outcome in outcomes:
        del outcome["model"]
    assert not list(differences(*outcomes))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_run_that_is_asked_to_stop_finishes_its_step_and_saves(
    whole: Run, tmp_path: Path, number: int, code: int
) -> None:
    stopped = Run(tmp_path / "stopped")
    found, told = stopped.stopped_at(stepping, number)
    assert found == code, told
    assert "python train.py --operation resume_train --sub_working_dir run" in told
    assert "Traceback" not in told
    assert files_of(stopped.path) == {*DOCUMENTED, "last.pth"}
    # Not at the end of an epoch, which is all that had been saved before.
    assert re.search(r"resumed after step \d+, in epoch [23] of 3", stopped.finish())
    assert not list(differences(stopped.outcome(), whole.outcome()))


def test_a_start_that_is_asked_to_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    stopped = Run(tmp_path / "stopped")
    code, told = stopped.stopped_at(making_the_data_set, signal.SIGTERM)
    assert code == 143, told
    assert not stopped.path.exists()
    assert not list((stopped.folder / "datasets").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_at_a_random_moment_ends_the_same(whole: Run, tmp_path: Path, seed: int) -> None:
    """Two kills at each of the moments with most at stake, each met by chance within a millisecond; six at any time.

    Those come early in the time of the whole run, as a machine may be twice as fast in this one.
    """
    chance = random.Random(seed)
    killed = Run(tmp_path / "killed")
    moment = MOMENTS[seed // 2] if seed < 2 * len(MOMENTS) else after(0.1 * whole.seconds, 0.4 * whole.seconds, chance)
    assert killed.stopped_at(moment)[0] == -signal.SIGKILL
    killed.finish()
    assert not list(differences(killed.outcome(), whole.outcome()))
