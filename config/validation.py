"""Merged entries -> a frozen options tree, with every mistake recorded and as much as possible still built."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from config.entries import Entry, Findings, Key, Section, find, one_line, plain, spelt, without
from config.evaluation import EvaluationParams
from config.legacy import read_booleans
from config.messages import Mistake, mistakes
from config.sections import Sections, sections_of
from utils.errors import ParamsError
from utils.options import Options

PluginOptions = Callable[[str], type[EvaluationParams]]
"""Name of an evaluation plug-in -> its options class; raises ParamsError for a name that no plug-in has."""

T = TypeVar("T", bound=Options)
EVALUATION = "evaluation_params"


class _Plugin(NamedTuple):
    """The options class of the evaluation section; `known` is False where only the shared keys can be checked."""

    options: type[EvaluationParams]
    known: bool


def validate(model: type[T], tree: Section, plugin_options: PluginOptions, findings: Findings) -> T | None:
    """Builds the options that a merged file describes.

    Where the file has mistakes, they are recorded and their keys take their defaults, so that what depends on
    several keys can still be checked; None where not even that gives a whole tree.
    """
    plugin = _plugin(tree, plugin_options, findings)
    sections = sections_of(model) | sections_of(plugin.options, (EVALUATION,))
    tree = read_booleans(tree, sections, findings)
    evaluation = tree.get(EVALUATION)
    if evaluation is None or not isinstance(evaluation.value, dict):
        # Absent, null or not an object: the model itself knows what to say.
        return _build(model, tree, (), sections, findings)
    if not plugin.known:
        shared = {key: entry for key, entry in evaluation.value.items() if key in EvaluationParams.model_fields}
        tree = tree | {EVALUATION: Entry(shared, evaluation.source, evaluation.key)}
    built = _build(model, without(tree, (EVALUATION,)), (), sections, findings)
    options = _build(plugin.options, tree, (EVALUATION,), sections, findings)
    if built is None or options is None:
        return None
    # Put in afterwards: validation as a part of the model would turn it into the base class.
    return built.model_copy(update={EVALUATION: options})


def _plugin(tree: Section, plugin_options: PluginOptions, findings: Findings) -> _Plugin:
    """The class that declares the keys of the evaluation section."""
    name = find(tree, (EVALUATION, "type"))
    if name is None or name.value is None:
        # In a file that could not be read there may be a name.
        return _Plugin(EvaluationParams, known=not findings.incomplete)
    if not isinstance(name.value, str):
        return _Plugin(EvaluationParams, known=False)
    try:
        return _Plugin(plugin_options(name.value), known=True)
    except ParamsError as error:
        findings.problem(name.source, name.key, one_line(error))
        findings.doubtful.add((EVALUATION, "type"))
        return _Plugin(EvaluationParams, known=False)


def _build(model: type[T], tree: Section, at: tuple[str, ...], sections: Sections, findings: Findings) -> T | None:
    """The section at `at` as options; keys with a mistake are recorded, left out, and the rest is tried again."""
    recorded: set[Key] = set()
    """The keys with a mistake, and what surrounds them."""
    while True:
        data = plain(tree)
        for part in at:
            data = data[part]
        try:
            # JSON text instead of Python data: strict validation then takes a list where a field is a tuple.
            return model.model_validate_json(json.dumps(data))
        except ValidationError as error:
            wrong = mistakes(error.errors(), data, sections, at)
        for key, mistake in wrong.items():
            # What surrounds a key that was left out may be wrong only for the lack of it.
            if key not in recorded:
                _record(key, mistake, tree, findings)
        recorded |= {key[:depth] for key in wrong for depth in range(len(key) + 1)}
        smaller = _without_all(
            tree, {tuple(part for part in key if isinstance(part, str)) for key in wrong if key != at}
        )
        if smaller == tree:
            return None
        tree = smaller


def _without_all(section: Section, keys: set[tuple[str, ...]]) -> Section:
    """`without` for many keys at once: a file may have as many mistakes as it has room for."""
    below: dict[str, set[tuple[str, ...]]] = {}
    for key in keys:
        below.setdefault(key[0], set()).add(key[1:])
    kept: Section = {}
    for name, entry in section.items():
        if name not in below:
            kept[name] = entry
        elif () not in below[name] and isinstance(entry.value, dict):
            kept[name] = replace(entry, value=_without_all(entry.value, below[name]))
    return kept


def _record(key: Key, mistake: Mistake, tree: Section, findings: Findings) -> None:
    source, written = spelt(tree, key)
    text = mistake.text
    if text == "unknown key" and key[0] == EVALUATION and plain(tree)[EVALUATION].get("type") is None:
        text = f"unknown key; only a plug-in has further keys; name it, too, as {EVALUATION}.type"
    findings.problem(source or findings.sources[0], written, text)
    # A misspelt key leaves the one that was meant at its default, which nobody asked for.
    findings.doubtful |= {key, mistake.meant or key}
