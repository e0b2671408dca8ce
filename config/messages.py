"""Pydantic's findings in the words of a params file's author."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic_core import ErrorDetails

from config.entries import Key, one_line, shown
from config.sections import Sections, allowed_values, fields_of, nearest, suggestion

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text in double quotes",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
}
# Filled from the error's context.
_BOUNDS = {
    "greater_than_equal": "a number of at least {ge}",
    "greater_than": "a number above {gt}",
    "less_than_equal": "a number of at most {le}",
    "less_than": "a number below {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "string_too_short": "a text of length {min_length} or more",
    "string_too_long": "a text of length {max_length} or less",
    "string_pattern_mismatch": "a text that matches {pattern}",
}


class Mistake(NamedTuple):
    """What is wrong with a key, and for a key that does not exist the one that was probably meant."""

    text: str
    meant: Key | None = None


def mistakes(errors: Sequence[ErrorDetails], data: Any, sections: Sections, at: tuple[str, ...]) -> dict[Key, Mistake]:
    """One sentence for each key that pydantic found wrong.

    Args:
        errors: as `ValidationError.errors()` gives them for `data`.
        data: the value that was validated, plain JSON data.
        sections: the whole tree's.
        at: where `data` stands in the tree.

    Returns:
        The wrong keys, from the top of the tree, and what is wrong with each.
    """
    grouped: dict[Key, list[ErrorDetails]] = {}
    for error in errors:
        grouped.setdefault(_location(error, data), []).append(error)
    annotations = dict(fields_of(sections))
    around = {key[:depth] for key in grouped for depth in range(len(key))}
    found: dict[Key, Mistake] = {}
    for key, group in grouped.items():
        # Of a union's members the one whose inside is wrong is the one that was meant.
        if key not in around:
            full = (*at, *key)
            named = tuple(part for part in full if isinstance(part, str))
            found[full] = _mistake(group, full, _at(data, key), allowed_values(annotations.get(named)), sections)
    return found


def _location(error: ErrorDetails, data: Any) -> Key:
    """Where an error stands in the data; pydantic also names the member of a union, which no file contains."""
    key: Key = ()
    for part in error["loc"]:
        keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
        if part in keys:
            key = (*key, part)
            data = _at(data, (part,))
        elif error["type"] == "missing":
            key = (*key, part)
    return key


def _at(data: Any, key: Key) -> Any:
    """The value at a key; None for one that is missing."""
    for part in key:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
    return data


def _mistake(errors: list[ErrorDetails], key: Key, value: Any, allowed: tuple[Any, ...], sections: Sections) -> Mistake:
    first = errors[0]
    if first["type"] == "extra_forbidden":
        words, meant = suggestion(key, sections) or ("", None)
        return Mistake("unknown key" + (f"; did you mean {words}?" if words else ""), meant)
    if first["type"] == "missing":
        return Mistake("missing; it has no default")
    if first["type"] in ("value_error", "assertion_error"):
        return Mistake(one_line(first.get("ctx", {}).get("error", first["msg"])))
    choices = [shown(word) for word in allowed] or [str(first.get("ctx", {}).get("expected", "another value"))]
    near = nearest(value, [word for word in allowed if isinstance(word, str)]) if isinstance(value, str) else None
    hint = f"; did you mean {shown(near)}?" if near else ""
    if near is not None and near == value:
        # The right word where a list of such words belongs.
        hint = f"; did you mean {shown([near])}?"
    if len(errors) == 1 and first["type"] == "literal_error" and isinstance(value, str):
        return Mistake(f"unknown value {shown(value)}{hint or '.'} Allowed: {', '.join(choices)}")
    expected = dict.fromkeys(" or ".join(choices) if e["type"] == "literal_error" else _expected(e) for e in errors)
    return Mistake(f"expected {' or '.join(expected)}, got {shown(value)}{hint}")


def _expected(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind in _BOUNDS:
        context = {
            name: f"{value:.15g}" if isinstance(value, float) else value for name, value in error.get("ctx", {}).items()
        }
        return _BOUNDS[kind].format(**context).replace(" 1 entries", " one entry")
    # A plug-in may declare types that nothing here foresees; pydantic's own words are then the best there are.
    return _EXPECTED.get(kind) or f"what pydantic calls {kind} ({error['msg']})"
