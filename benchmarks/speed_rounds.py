"""Contestants taking turns: what they are asked in each round, and what comes of it."""

import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from benchmarks.speed_contestant import Contestant, ContestantError


@dataclass
class Entry:
    """A row of a table in the making: a call that gives seconds per step or per image, and those of each round."""

    row: dict[str, Any]
    contestant: Contestant
    method: str
    arguments: tuple[Any, ...] = ()
    seconds: list[float] = field(default_factory=list)


def prepare(contestants: Iterable[Contestant], *, at_once: bool) -> dict[Contestant, dict[str, float]]:
    """Wait until all are built, and let them take their first steps.

    Args:
        contestants: those that fail keep their error.
        at_once: all together, which on a CPU would make them slow.

    Returns:
        What the first steps of each cost; without those that failed.
    """
    costs: dict[Contestant, dict[str, float]] = {}
    for group in [list(contestants)] if at_once else [[one] for one in contestants]:
        for one in group:
            with suppress(ContestantError):
                one.send("warm_up")
        for one in group:
            with suppress(ContestantError):
                costs[one] = one.receive()
    return costs


def take_turns(entries: Sequence[Entry], rounds: int) -> None:
    """Ask every entry once in each round, forwards and backwards in turn: whatever drifts, drifts for all."""
    for number in range(rounds):
        for entry in entries if number % 2 == 0 else reversed(entries):
            if "error" in entry.row:
                continue
            try:
                entry.seconds.append(entry.contestant.ask(entry.method, *entry.arguments))
            except ContestantError as error:
                entry.row["error"] = str(error)


def complete(entries: Sequence[Entry], baseline: Entry, images: int, name: str = "times_textbook") -> None:
    """Put into each row its images per second, of each round and their median, and how many times the baseline's.

    Args:
        entries: after their rounds.
        baseline: one of them or another of the same rounds.
        images: how many the seconds are of.
        name: what the ratio is called.
    """
    for entry in entries:
        if "error" in entry.row:
            continue
        rates = [images / seconds for seconds in entry.seconds]
        entry.row |= {"rounds": rates, "images_per_second": statistics.median(rates)}
        if "error" not in baseline.row:
            entry.row[name] = median_ratio(baseline, entry)


def median_ratio(above: Entry, below: Entry) -> float:
    """The median over the rounds of one's seconds over the other's."""
    return statistics.median(a / b for a, b in zip(above.seconds, below.seconds, strict=True))


def asked(contestant: Contestant, row: dict[str, Any], method: str, *arguments: Any) -> Any:
    """The answer to one call; None if it fails, and then the row has the error."""
    try:
        return contestant.ask(method, *arguments)
    except ContestantError as error:
        row["error"] = str(error)
        return None
