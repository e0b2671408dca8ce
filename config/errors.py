"""The mistakes found in params, and how messages write keys and values."""

import json
from dataclasses import dataclass, field
from typing import Any

from utils.errors import ParamsError

MAX_SHOWN = 200
"""Mistakes that one message lists."""

Key = tuple[str | int, ...]
"""The keys from the top of a file down to a value; an int is a place in a list."""


@dataclass
class Findings:
    """The mistakes and notes of one load.

    `sources` are the files in the order of reading. `doubtful` are the keys whose value could not be used: what
    stands in for it is a default, and no second mistake may follow from that. `incomplete`: a file was unreadable.
    """

    sources: list[str] = field(default_factory=list)
    mistakes: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doubtful: set[Key] = field(default_factory=set)
    incomplete: bool = False

    def mistake(self, source: str, key: Key, text: str, *, incomplete: bool = False) -> None:
        """Record a mistake, which may leave the settings incomplete; an empty `key` means the source as a whole."""
        self.incomplete |= incomplete
        self.mistakes.append((source, f"{source}: {dotted(key)}: {text}" if key else f"{source}: {text}"))

    def note(self, source: str, text: str) -> None:
        """Record a line for the log."""
        self.notes.append(f"{source}: {text}")

    def is_doubtful(self, key: Key) -> bool:
        """Whether `key`, a key inside it or a section around it could not be used."""
        return any(key[: len(other)] == other[: len(key)] for other in self.doubtful)

    def error(self) -> ParamsError:
        """All mistakes as one error, sorted by their source."""
        order = {source: place for place, source in enumerate(self.sources)}
        lines = [line for _, line in sorted(self.mistakes, key=lambda mistake: order[mistake[0]])]
        number = len(lines)
        if number > MAX_SHOWN:
            lines[MAX_SHOWN:] = [f"{self.sources[0]}: and {number - MAX_SHOWN} more; is it a params file?"]
        if number > 1:
            lines.insert(0, f"{self.sources[0]}: {number} mistakes")
        return ParamsError("\n".join(lines))


def dotted(key: Key) -> str:
    """The key as users write it: ("lr", "decay_step", 1) -> lr.decay_step[1]."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # A key with a line break or a dot is quoted, so that each mistake stays one readable line.
            plain = part.isprintable() and part.strip() and "." not in part and len(part) <= 60
            text += ("." if text else "") + (part if plain else shown(part))
    return text


def shown(value: Any) -> str:
    """A value as JSON, at most 60 characters of it."""
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value, ensure_ascii=False)
    # With ensure_ascii=False json.dumps leaves some unprintable characters (U+2028, U+0085) as they are.
    return shortened(text if text.isprintable() else json.dumps(value))


def shortened(text: str) -> str:
    """At most 60 characters of a text."""
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(text: object) -> str:
    """The text of an exception without line breaks."""
    return " ".join(str(text).split())
