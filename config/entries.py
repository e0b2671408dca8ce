"""Values of a params file that remember where they were written, and the mistakes found in them."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

from utils.errors import ParamsError

MAX_SHOWN = 200
"""Mistakes that a message lists; a file that is no params file at all may have a hundred thousand."""

Key = tuple[str | int, ...]
"""Where a value stands: the keys from the top of the file down; an int is a place in a list."""


@dataclass(frozen=True)
class Entry:
    """One value of a file.

    `value` is a `Section` for a JSON object and plain data for everything else (objects inside a list too).
    `source` is the file, or "--set"; `key` is the key as its author spelt it, before old spellings are translated.
    `replaces` is true for a section that takes the place of an earlier one instead of being merged into it.
    """

    value: Any
    source: str
    key: Key
    replaces: bool = False


Section = dict[str, Entry]


@dataclass(frozen=True)
class Problem:
    """One mistake; an empty `key` means the source as a whole."""

    source: str
    key: Key
    text: str

    def __str__(self) -> str:
        where = f"{self.source}: {dotted(self.key)}" if self.key else self.source
        return f"{where}: {self.text}"


@dataclass
class Findings:
    """What loading found out so far.

    `sources` are the files in the order of reading. `doubtful` are the keys whose value could not be used, so that
    no second mistake is derived from the default standing in for it. `incomplete` says that a file was unreadable.
    """

    sources: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doubtful: set[Key] = field(default_factory=set)
    incomplete: bool = False

    def problem(self, source: str, key: Key, text: str) -> None:
        """Records a mistake."""
        self.problems.append(Problem(source, key, text))

    def note(self, source: str, text: str) -> None:
        """Records something the user should read in the log but need not act on."""
        self.notes.append(f"{source}: {text}")

    def is_doubtful(self, key: Key) -> bool:
        """Whether `key`, something in it or something around it could not be used."""
        return any(key[: len(other)] == other[: len(key)] for other in self.doubtful)

    def error(self) -> ParamsError:
        """All mistakes as one error, those of a file together, in the order of reading."""
        order = {source: place for place, source in enumerate(self.sources)}
        problems = sorted(self.problems, key=lambda p: order.get(p.source, len(order)))
        lines = [str(problem) for problem in problems[:MAX_SHOWN]]
        if len(problems) > MAX_SHOWN:
            lines.append(f"{self.sources[0]}: and {len(problems) - MAX_SHOWN} more; is it a params file?")
        if len(problems) > 1:
            lines.insert(0, f"{self.sources[0]}: {len(problems)} mistakes")
        return ParamsError("\n".join(lines))


def dotted(key: Key) -> str:
    """The key as users write it: ("lr", "decay_step", 1) -> lr.decay_step[1]."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # A key with a line break or a dot of its own is quoted, so that one mistake stays one readable line.
            plain = part.isprintable() and part.strip() and "." not in part and len(part) <= 60
            text += ("." if text else "") + (part if plain else shown(part))
    return text


def shown(value: Any) -> str:
    """A value as it stands in a JSON file, shortened where it is long."""
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value, ensure_ascii=False)
    # json.dumps escapes line breaks but leaves other unprintable characters (U+2028, U+0085) as they are.
    if not text.isprintable():
        text = json.dumps(value)
    return shortened(text)


def shortened(text: str) -> str:
    """At most 60 characters of a text."""
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(text: object) -> str:
    """What an exception says, without its line breaks: each mistake is one line."""
    return " ".join(str(text).split())


def plain(section: Section) -> dict[str, Any]:
    """The section as ordinary JSON data, without origins."""
    return {key: plain(e.value) if isinstance(e.value, dict) else e.value for key, e in section.items()}


def merge(earlier: Section, later: Section) -> Section:
    """Both sections as one; where both have a key objects are merged, everything else of `later` replaces."""
    merged = dict(earlier)
    for key, entry in later.items():
        old = earlier.get(key)
        both = old is not None and isinstance(old.value, dict) and isinstance(entry.value, dict)
        if old is not None and both and not entry.replaces:
            # What the later section adds to a replacement is a replacement still.
            entry = Entry(merge(old.value, entry.value), entry.source, entry.key, old.replaces)
        merged[key] = entry
    return merged


def find(section: Section, key: Key) -> Entry | None:
    """The entry at `key`."""
    found = None
    value: Any = section
    for part in key:
        if not isinstance(value, dict) or part not in value:
            return None
        found = value[part]
        value = found.value
    return found


def spelt(section: Section, key: Key) -> tuple[str | None, Key]:
    """The source that gave `key`, and the key as written there; (None, key) for one that nobody gave."""
    found = None
    written = key
    value: Any = section
    for depth, part in enumerate(key, start=1):
        if not isinstance(value, dict) or part not in value:
            break
        found = value[part]
        written = found.key + key[depth:]
        value = found.value
    return (found.source if found else None), written


def without(section: Section, key: Key) -> Section:
    """A copy of the section that lacks `key`; a place in a list takes the whole list with it."""
    names = [part for part in key if isinstance(part, str)]
    if not names or names[0] not in section:
        return section
    head, rest = names[0], tuple(names[1:])
    entry = section[head]
    if rest and isinstance(entry.value, dict):
        return section | {head: replace(entry, value=without(entry.value, rest))}
    return {name: other for name, other in section.items() if name != head}


def replaced(section: Section, key: Key, entry: Entry) -> Section:
    """A copy of the section with `entry` at `key`; sections on the way that do not exist are made."""
    head = str(key[0])
    if len(key) > 1:
        old = section.get(head, Entry({}, entry.source, key[:1]))
        entry = replace(old, value=replaced(old.value, key[1:], entry))
    return section | {head: entry}
