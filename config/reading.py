"""JSON text -> entries that know where they come from. Stricter than Python's own reader, and kinder in its words."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from config.entries import Entry, Findings, Key, Section, shortened, shown

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
# No setting needs a number that 64 bits cannot hold; past 4300 digits Python refuses to print one.
MAX_INT = 2**63 - 1
MAX_DIGITS = 20


class _Pairs(list[tuple[str, Any]]):
    """A JSON object before its keys are compared."""


class _Unusable(NamedTuple):
    """A number that JSON text can spell but no setting can use."""

    text: str


def read_file(path: Path, source: str, findings: Findings, extended_by: str = "") -> Section | None:
    """The object in a JSON file, or None after recording why there is none."""
    reason = f" ({extended_by} extends it)" if extended_by else ""
    try:
        if path.is_dir():
            return _unreadable(source, f"is a folder, not a JSON file{reason}", findings)
        if not path.exists():
            return _unreadable(source, f"no such file{reason}", findings)
        if not path.is_file():
            return _unreadable(source, f"is not a regular file{reason}", findings)
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        return _unreadable(source, f"cannot be read: {error.strerror or error}{reason}", findings)
    if len(raw) > MAX_BYTES:
        return _unreadable(source, "is larger than 1 MB; params files are small, is this the right file?", findings)
    try:
        # Editors on Windows put a byte order mark in front.
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _unreadable(source, f"is not UTF-8 text (byte {error.start + 1}); save it as UTF-8", findings)
    return read_text(text, source, findings)


def read_text(text: str, source: str, findings: Findings) -> Section | None:
    """The object that JSON text spells, or None after recording why there is none."""
    if not text.strip():
        return _unreadable(source, "is empty, expected a JSON object", findings)
    try:
        value = parse(text)
    except json.JSONDecodeError as error:
        return _unreadable(source, f"not valid JSON: {_syntax_mistake(error)}", findings)
    except RecursionError:
        return _unreadable(source, f"nested more than {MAX_DEPTH} levels deep", findings)
    if not isinstance(value, _Pairs):
        got = "a list" if isinstance(value, list) else value.text if isinstance(value, _Unusable) else shown(value)
        return _unreadable(source, f"expected a JSON object at the top, got {got}", findings)
    return _section(value, source, (), findings)


def parse(text: str) -> Any:
    """JSON text as data for `as_entry`. Raises json.JSONDecodeError and RecursionError."""
    return json.loads(
        text, object_pairs_hook=_Pairs, parse_constant=_Unusable, parse_float=_finite, parse_int=_moderate
    )


def as_entry(value: Any, source: str, key: Key, findings: Findings) -> Entry | None:
    """What `parse` returned as an entry; None after recording what makes it unusable."""
    if isinstance(value, _Pairs) and len(key) < MAX_DEPTH:
        return Entry(_section(value, source, key, findings), source, key)
    known = len(findings.problems)
    data = _plain(value, source, key, findings)
    if len(findings.problems) > known:
        findings.doubtful.add(key)
        return None
    return Entry(data, source, key)


def _section(pairs: _Pairs, source: str, key: Key, findings: Findings) -> Section:
    """A JSON object as entries, less the values that cannot be used."""
    entries = (
        (name, as_entry(value, source, (*key, name), findings))
        for name, value in _distinct(pairs, source, key, findings)
    )
    return {name: entry for name, entry in entries if entry is not None}


def _plain(value: Any, source: str, key: Key, findings: Findings) -> Any:
    """Data without origins, as it stands in a list; records what in it cannot be used."""
    if len(key) >= MAX_DEPTH and isinstance(value, list):
        findings.problem(source, key[:2], f"nested more than {MAX_DEPTH} levels deep")
    elif isinstance(value, _Pairs):
        pairs = _distinct(value, source, key, findings)
        return {name: _plain(item, source, (*key, name), findings) for name, item in pairs}
    elif isinstance(value, list):
        return [_plain(item, source, (*key, place), findings) for place, item in enumerate(value)]
    elif isinstance(value, _Unusable):
        findings.problem(source, key, f"{shortened(value.text)} is not a number a setting can have")
    elif isinstance(value, str) and not _is_text(value):
        findings.problem(source, key, f"{shown(value)} holds half a character; no file can store it")
    elif isinstance(value, str) and "\0" in value:
        findings.problem(source, key, f"{shown(value)} holds the character 0, with which the system ends a text")
    return value


def _distinct(pairs: _Pairs, source: str, key: Key, findings: Findings) -> list[tuple[str, Any]]:
    """The pairs of an object; the second of two equal keys and keys that are no text are recorded and left out."""
    kept: dict[str, Any] = {}
    for name, item in pairs:
        if name in kept:
            findings.problem(source, (*key, name), "duplicate key; keep one of them")
            findings.doubtful.add((*key, name))
        elif not _is_text(name):
            findings.problem(source, key, f"the key {shown(name)} holds half a character; no file can store it")
        else:
            kept[name] = item
    return list(kept.items())


def _is_text(text: str) -> bool:
    """False for half of a surrogate pair, as in "\\ud800": JSON can spell it, UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _finite(text: str) -> float | _Unusable:
    return float(text) if math.isfinite(float(text)) else _Unusable(text)


def _moderate(text: str) -> int | _Unusable:
    return int(text) if len(text) <= MAX_DIGITS and abs(int(text)) <= MAX_INT else _Unusable(text)


def _unreadable(source: str, text: str, findings: Findings) -> None:
    findings.problem(source, (), text)
    findings.incomplete = True


def _syntax_mistake(error: json.JSONDecodeError) -> str:
    """Where the text stops being JSON and why, in plain words for the mistakes people make most."""
    doc, found = error.doc, error.doc[error.pos :].lstrip()
    # Python up to 3.12 points behind a trailing comma, later versions at it.
    comma = error.pos if found.startswith(",") else len(doc[: error.pos].rstrip()) - 1
    closing = doc[comma + 1 :].lstrip()[:1]
    if comma >= 0 and doc[comma] == "," and closing in ("}", "]"):
        return f"{_position(doc, comma)}: trailing comma before {closing!r}; remove it"
    reason = error.msg[:1].lower() + error.msg[1:]
    if found.startswith(("//", "/*", "#")):
        reason = "JSON has no comments"
    elif found.startswith("'"):
        reason = "texts stand in double quotes"
    return f"{_position(doc, error.pos)}: {reason}"


def _position(text: str, place: int) -> str:
    return f"line {text.count(chr(10), 0, place) + 1}, column {place - text.rfind(chr(10), 0, place)}"
