"""JSON files as nested dicts, and where each setting in them was written."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config.errors import Findings, Key, shown

MAX_BYTES = 1_000_000

Origin = tuple[str, Key]
"""The file that gave a value ("--set" for the command line), and the key as its author wrote it."""


class Settings:
    """Nested dicts of JSON data that know the origin of every key.

    `replaces` are top-level keys that take the place of earlier ones instead of being merged into them.
    """

    def __init__(self, data: dict[str, Any], source: str) -> None:
        self.data = data
        self.replaces: set[str] = set()
        self.origins: dict[Key, Origin] = {key: (source, key) for key in _keys(data)}

    def get(self, key: Key) -> Any:
        """The value of a key, None where there is none."""
        value: Any = self.data
        for part in key:
            if not isinstance(value, dict):
                return None
            value = value.get(part)
        return value

    def __contains__(self, key: Key) -> bool:
        section = self.get(key[:-1])
        return isinstance(section, dict) and key[-1] in section

    def put(self, key: Key, value: Any, origin: Origin) -> None:
        """Set a value, in new sections where they are missing."""
        source, written = origin
        section = key[:-1]
        if section and section not in self:
            self.put(section, {}, (source, section))
        self.get(section)[key[-1]] = value
        self.origins |= {(*key, *inner): (source, (*written, *inner)) for inner in [(), *_keys(value)]}

    def remove(self, key: Key) -> None:
        """Remove a value."""
        del self.get(key[:-1])[key[-1]]

    def merge(self, later: "Settings") -> None:
        """Add later settings; where both have a key, objects are merged and any other value is replaced."""
        for name in later.replaces:
            self.data.pop(name, None)
        self.replaces |= later.replaces
        _merge(self.data, later.data)
        self.origins |= later.origins

    def origin(self, key: Key) -> Origin:
        """Where `key` was written, or else the section around it; the source is "" for a key that no file gives."""
        for depth in range(len(key), 0, -1):
            if key[:depth] in self.origins and key[:depth] in self:
                source, written = self.origins[key[:depth]]
                return source, (*written, *key[depth:])
        return "", key


def read_file(path: Path, source: str, findings: Findings) -> dict[str, Any]:
    """Read the object in a JSON file; values that no setting can have are recorded and left out.

    Raises:
        ValueError: there is no such object; the text says why.
    """
    try:
        if path.is_dir():
            raise ValueError("is a folder, not a JSON file")
        if not path.exists():
            raise ValueError("no such file")
        if not path.is_file():
            raise ValueError("is not a regular file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    return read_content(content, source, findings)


def read_content(content: bytes, source: str, findings: Findings) -> dict[str, Any]:
    """Read the content of a file as `read_file` does."""
    if len(content) > MAX_BYTES:
        raise ValueError("larger than 1 MB; params files are small, is this the right file?")
    try:
        # Editors on Windows put a byte order mark in front.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from error
    if not text.strip():
        raise ValueError("is empty, expected a JSON object")
    try:
        value = parse(text, source, (), findings)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {_syntax_mistake(error)}") from error
    if not isinstance(value, dict):
        got = "a list" if isinstance(value, list) else shown(value)
        raise ValueError(f"expected a JSON object at the top, got {got}")
    return value


def parse(text: str, source: str, key: Key, findings: Findings) -> Any:
    """Read JSON text; what no setting can have is recorded and left out.

    Raises:
        json.JSONDecodeError: the text is not JSON.
        ValueError: it is nested too deeply.
    """
    try:
        return _usable(json.loads(text, object_pairs_hook=_object, parse_int=_integer), source, key, findings)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_storable(text: str, source: str, key: Key, findings: Findings) -> bool:
    """Whether a file can hold the text; if not, the reason is recorded."""
    if "\0" in text:
        findings.mistake(source, key, f"{shown(text)} holds the character 0, with which the system ends a text")
    elif any("\ud800" <= character <= "\udfff" for character in text):
        findings.mistake(source, key, f"{shown(text)} holds half a character; no file can store it")
    else:
        return True
    findings.doubtful.add(key)
    return False


class _Object(dict[str, Any]):
    """A JSON object; `repeated` are the keys that it has more than once."""

    repeated: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    if len(found) < len(pairs):
        found.repeated = tuple(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return found


def _integer(text: str) -> int | float:
    """A number beyond 64 bits as a float, which validation refuses as every other wrong value."""
    return int(text) if abs(float(text)) < 2**63 else float(text)


def _usable(value: Any, source: str, key: Key, findings: Findings) -> Any:
    """The value without repeated keys and texts that cannot be stored; each is recorded."""
    if len(key) > 100:
        # Pydantic's reader ends at 200, Python's own functions at 1000.
        raise RecursionError
    if isinstance(value, _Object):
        for name in value.repeated:
            findings.mistake(source, (*key, name), "duplicate key; keep one of them")
            findings.doubtful.add((*key, name))
        items = {name: item for name, item in value.items() if is_storable(name, source, (*key, name), findings)}
    elif isinstance(value, list):
        items = dict(enumerate(value))
    else:
        return value
    kept = {
        name: _usable(item, source, (*key, name), findings)
        for name, item in items.items()
        if not isinstance(item, str) or is_storable(item, source, (*key, name), findings)
    }
    return kept if isinstance(value, dict) else list(kept.values())


def _keys(data: Any) -> Iterator[tuple[str, ...]]:
    """Every key of nested dicts, the outer before the inner."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield (name,)
            yield from ((name, *inner) for inner in _keys(value))


def _merge(earlier: dict[str, Any], later: dict[str, Any]) -> None:
    for name, value in later.items():
        if isinstance(value, dict) and isinstance(earlier.get(name), dict):
            _merge(earlier[name], value)
        else:
            earlier[name] = value


def _syntax_mistake(error: json.JSONDecodeError) -> str:
    """Line, column and reason, in plain words for the most common mistakes."""
    doc, found = error.doc, error.doc[error.pos :].lstrip()
    # Python up to 3.12 points behind a trailing comma, later versions at it.
    comma = error.pos if found.startswith(",") else len(doc[: error.pos].rstrip()) - 1
    closing = doc[comma + 1 :].lstrip()[:1]
    if comma >= 0 and doc[comma] == "," and closing in ("}", "]"):
        error = json.JSONDecodeError(f"trailing comma before {closing!r}; remove it", doc, comma)
    elif found.startswith(("//", "/*", "#")):
        error.msg = "JSON has no comments"
    elif found.startswith("'"):
        error.msg = "strings need double quotes"
    return f"line {error.lineno}, column {error.colno}: {error.msg[:1].lower()}{error.msg[1:]}".replace("jSON", "JSON")
