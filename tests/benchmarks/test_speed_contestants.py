"""Contestants in processes of their own, and how their rounds become rows."""

import os
import signal
import time
from multiprocessing import get_start_method
from typing import Any

import pytest

from benchmarks.speed_contestant import Contestant, ContestantError
from benchmarks.speed_rounds import Entry, asked, complete, median_ratio, prepare, take_turns


class Counter:
    """Counts, fails, sleeps or dies when told."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise ValueError("a count begins at zero\nor above")
        self.count = start

    def add(self, number: int) -> int:
        self.count += number
        return self.count

    def warm_up(self) -> dict[str, float]:
        return {"first_step_seconds": float(self.count)}

    def process(self) -> tuple[int, str]:
        return os.getpid(), get_start_method()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def fail(self) -> None:
        raise RuntimeError("cannot")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_contestant_keeps_its_state_in_a_process_of_its_own() -> None:
    with Contestant("counter", Counter, 3) as contestant:
        assert [contestant.ask("add", 2), contestant.ask("add", 2)] == [5, 7]
        pid, start_method = contestant.ask("process")
        assert pid != os.getpid()
        assert start_method == get_start_method()
        contestant.send("add", 1)
        assert contestant.receive() == 8
    assert not contestant.process.is_alive()
    assert contestant.process.exitcode == 0


@pytest.mark.parametrize(
    ("start", "method", "message"),
    [
        (0, "fail", "RuntimeError: cannot"),
        (0, "die", "its process has ended, exit code -9"),
        (-1, "add", "ValueError: a count begins at zero"),
    ],
)
def test_a_failure_is_told_in_one_line_ever_after(start: int, method: str, message: str) -> None:
    with Contestant("counter", Counter, start) as contestant:
        for _ in range(2):
            with pytest.raises(ContestantError) as failure:
                contestant.ask(method)
            assert str(failure.value) == message
    assert not contestant.process.is_alive()


def test_a_contestant_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with Contestant("counter", Counter, 0) as contestant:
        contestant.ask("add", 1)
        monkeypatch.setattr("benchmarks.speed_contestant.PATIENCE", 0.2)
        with pytest.raises(ContestantError, match="no answer within 0 s"):
            contestant.ask("sleep", 60)
    assert not contestant.process.is_alive()


def test_who_fails_in_preparation_has_no_costs() -> None:
    with Contestant("good", Counter, 4) as good, Contestant("bad", Counter, -1) as bad:
        for at_once in (False, True):
            assert prepare([bad, good], at_once=at_once) == {good: {"first_step_seconds": 4.0}}
        row: dict[str, Any] = {}
        assert asked(bad, row, "add", 1) is None
        assert row == {"error": "ValueError: a count begins at zero"}
        assert asked(good, {}, "add", 1) == 5


class Player:
    """Stands for a contestant: writes down its turns, and fails in the one told."""

    def __init__(self, name: str, turns: list[str], seconds: list[float], fails_at: int = -1) -> None:
        self.name, self.turns, self.seconds, self.fails_at = name, turns, seconds, fails_at
        self.played = 0

    def ask(self, method: str, steps: int) -> float:
        assert (method, steps) == ("play", 7)
        self.turns.append(self.name)
        self.played += 1
        if self.played - 1 == self.fails_at:
            raise ContestantError("out of breath")
        return self.seconds[self.played - 1]


def entries_of(turns: list[str], **players: Any) -> list[Entry]:
    return [
        Entry({"name": name}, Player(name, turns, *arguments), "play", (7,))  # pyright: ignore[reportArgumentType]
        for name, arguments in players.items()
    ]


def test_turns_go_forwards_and_backwards_and_become_rates_and_ratios() -> None:
    turns: list[str] = []
    entries = entries_of(turns, ours=([1.0, 2.0, 4.0],), baseline=([2.0, 2.0, 12.0],), bad=([1.0, 1.0], 1))
    take_turns(entries, 3)
    assert turns == ["ours", "baseline", "bad", "bad", "baseline", "ours", "ours", "baseline"]
    ours, baseline, bad = entries
    complete(entries, baseline, 8)
    assert ours.row == {"name": "ours", "rounds": [8.0, 4.0, 2.0], "images_per_second": 4.0, "times_textbook": 2.0}
    assert baseline.row["times_textbook"] == 1.0
    assert bad.row == {"name": "bad", "error": "out of breath"}
    assert median_ratio(ours, baseline) == 0.5


def test_without_a_baseline_there_are_rates_only() -> None:
    ours, baseline = entries_of([], ours=([1.0],), baseline=([1.0], 0))
    take_turns([ours, baseline], 1)
    complete([ours, baseline], baseline, 8)
    assert ours.row == {"name": "ours", "rounds": [8.0], "images_per_second": 8.0}
