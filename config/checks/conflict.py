"""What a check finds."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from utils.options import Options


class Conflict(NamedTuple):
    """Keys that do not go together; the message is shown at the first of them and names the others."""

    keys: tuple[str, ...]
    text: str


T = TypeVar("T", bound=Options)
Check = Callable[[T], Iterator[Conflict]]


def repeated_devices(parallels: Sequence[int]) -> Iterator[Conflict]:
    """Each process needs its own GPU."""
    if len(set(parallels)) < len(parallels):
        yield Conflict(("parallels",), "names a GPU twice; each process needs one of its own")


def multiples(number: int, factor: int) -> str:
    """The multiples of `factor` nearest to `number`, in words."""
    below = number // factor * factor
    return f"use {below} or {below + factor}" if below else f"use {factor}"
