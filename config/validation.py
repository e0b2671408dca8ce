"""Merged settings -> frozen options, with every mistake recorded in the words of a params file's author."""

import json
import operator
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import reduce
from itertools import takewhile
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from config.errors import Findings, Key, one_line, shown
from config.evaluation import EvaluationParams
from config.legacy import adapt_values
from config.reading import Settings
from config.sections import Sections, allowed_values, fields_of, nearest, sections_of, suggestion
from utils.errors import ParamsError
from utils.options import Options

PluginOptions = Callable[[str], type[EvaluationParams]]
"""Name of an evaluation plug-in -> its options class; raises ParamsError for an unknown name."""

T = TypeVar("T", bound=Options)
EVALUATION = "evaluation_params"
EXPECTED = {
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
"""Type of a pydantic error -> the allowed values in words, filled from the error's context."""


class Mistake(NamedTuple):
    """The text of a mistake; `meant` is the key that a misspelt one was probably meant to be."""

    text: str
    meant: Key | None = None


def validate(model: type[T], settings: Settings, plugin_options: PluginOptions, findings: Findings) -> T | None:
    """Build the options that merged settings describe.

    Mistakes are recorded and their keys take their defaults, so that what depends on several keys can still be
    checked; None where not even that gives valid options.
    """
    plugin = _plugin(settings, plugin_options, findings)
    sections = sections_of(model) | sections_of(plugin or EvaluationParams, (EVALUATION,))
    adapt_values(settings, sections, findings)
    data = deepcopy(settings.data)
    if not isinstance(data.get(EVALUATION), dict):
        return _build(model, data, (), settings, sections, findings)
    evaluation = data.pop(EVALUATION)
    if plugin is None:
        evaluation = {key: value for key, value in evaluation.items() if key in EvaluationParams.model_fields}
    built = _build(model, data, (), settings, sections, findings)
    options = _build(plugin or EvaluationParams, evaluation, (EVALUATION,), settings, sections, findings)
    if built is None or options is None:
        return None
    # Added afterwards: validated as a part of the model, the options would be of the base class.
    return built.model_copy(update={EVALUATION: options})


def _plugin(settings: Settings, plugin_options: PluginOptions, findings: Findings) -> type[EvaluationParams] | None:
    """The options class of the evaluation plug-in; None where only the keys that all plug-ins share are known."""
    key = (EVALUATION, "type")
    name = settings.get(key)
    if name is None:
        # A file that could not be read may name a plug-in.
        return None if findings.incomplete else EvaluationParams
    if not isinstance(name, str):
        return None
    try:
        return plugin_options(name)
    except ParamsError as error:
        findings.mistake(*settings.origin(key), one_line(error))
        findings.doubtful.add(key)
        return None


def _build(
    model: type[T], data: dict[str, Any], at: Key, settings: Settings, sections: Sections, findings: Findings
) -> T | None:
    """Build the section at `at`; wrong keys are recorded and removed from `data`, and the rest is tried again."""
    recorded: set[Key] = set()
    while True:
        try:
            # JSON text instead of Python data: strict validation then takes a list where a field is a tuple.
            return model.model_validate_json(json.dumps(data))
        except ValidationError as error:
            wrong = _mistakes(error.errors(), data, at, sections)
        for key, mistake in wrong.items():
            # A section from which a key was removed may be wrong only because it lacks the key.
            if key not in recorded:
                _record(key, mistake, settings, findings)
        recorded |= {key[:depth] for key in wrong for depth in range(len(key) + 1)}
        removed = [_remove(data, key[len(at) :]) for key in wrong]
        if not any(removed):
            return None


def _remove(data: dict[str, Any], key: Key) -> bool:
    """Remove a key, the whole list for a place in one; False where there is nothing to remove."""
    names = [str(part) for part in takewhile(lambda part: isinstance(part, str), key)]
    for name in names[:-1]:
        data = data.get(name, {})
    return bool(names) and data.pop(names[-1], data) is not data


def _record(key: Key, mistake: Mistake, settings: Settings, findings: Findings) -> None:
    source, written = settings.origin(key)
    text = mistake.text
    if text == "unknown key" and key[0] == EVALUATION and settings.get((EVALUATION, "type")) is None:
        text = f"unknown key; only a plug-in has further keys; name it, too, as {EVALUATION}.type"
    findings.mistake(source or findings.sources[0], written, text)
    # A misspelt key leaves the intended one at its default, which was not requested.
    findings.doubtful |= {key, mistake.meant or key}


def _mistakes(errors: Sequence[ErrorDetails], data: Any, at: Key, sections: Sections) -> dict[Key, Mistake]:
    """One mistake for each wrong key in `data`, the section at `at`."""
    grouped: dict[Key, list[ErrorDetails]] = {}
    for error in errors:
        grouped.setdefault(_location(error, data), []).append(error)
    annotations = dict(fields_of(sections))
    around = {key[:depth] for key in grouped for depth in range(len(key))}
    found: dict[Key, Mistake] = {}
    for key, group in grouped.items():
        # Of the types of a union, the one with a mistake inside the value is the one that was meant.
        if key not in around:
            full = (*at, *key)
            value = None if group[0]["type"] == "missing" else reduce(operator.getitem, key, data)
            named = tuple(part for part in full if isinstance(part, str))
            found[full] = _mistake(group, full, value, allowed_values(annotations.get(named)), sections)
    return found


def _location(error: ErrorDetails, data: Any) -> Key:
    """The key of an error; pydantic's location also names the types of a union, which no file contains."""
    key: Key = ()
    for part in error["loc"]:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if error["type"] != "missing":
                continue
        key = (*key, part)
    return key


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
    context = {
        name: f"{value:.15g}" if isinstance(value, float) else value for name, value in error.get("ctx", {}).items()
    }
    # A plug-in may declare types that the table lacks.
    words = EXPECTED.get(error["type"], f"what pydantic calls {error['type']} ({error['msg']})")
    return words.format(**context).replace(" 1 entries", " one entry") if error["type"] in EXPECTED else words
