"""params.json -> Params, or one message that lists every mistake of every file and override."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from config.checks import CHECKS, EVALUATION_CHECKS, Check
from config.entries import Findings, Section, dotted, find, merge, one_line, replaced, shown, spelt, without
from config.eval_params import EvalParams
from config.evaluation import EvaluationParams
from config.legacy import translated
from config.params import Params
from config.reading import MAX_BYTES, as_entry, parse, read_file, read_text
from config.sampling import with_sampling, without_replaced
from config.validation import EVALUATION, PluginOptions, validate
from utils.errors import ParamsError
from utils.options import Options

OVERRIDE = "--set"
SCHEMA = "$schema"
"""In a params file: where an editor finds what completes it."""
OPERATION = "$operation"
"""In the params of a run's folder: the operation it was begun with."""
T = TypeVar("T", bound=Options)


class Loaded(NamedTuple, Generic[T]):
    """Valid params, and what the log should say about the old spellings they were read from."""

    params: T
    notes: tuple[str, ...]


def load_params(path: Path, overrides: Sequence[str] = (), *, plugin_options: PluginOptions) -> Loaded[Params]:
    """The training params in a file.

    Args:
        path: a JSON file; "extends" in it names another file that it changes.
        overrides: texts such as "lr.base_lr=0.02"; the value is JSON or, where it is not, a text. An object is
            merged into the section it names.
        plugin_options: the options class of the evaluation plug-in of a name; raises ParamsError where there is none.

    Raises:
        ParamsError: with every mistake, one a line.
    """
    return _load(Params, CHECKS, path, overrides, plugin_options)


def load_eval_params(
    path: Path | None, overrides: Sequence[str] = (), *, plugin_options: PluginOptions
) -> Loaded[EvalParams]:
    """The evaluator's params in a file, None for the defaults; arguments and errors as for `load_params`."""
    return _load(EvalParams, EVALUATION_CHECKS, path, overrides, plugin_options)


def params_from_dict(raw: Mapping[str, Any], source: str, plugin_options: PluginOptions) -> Loaded[Params]:
    """The training params stored in a checkpoint; `source` is what error messages call it.

    Raises:
        ParamsError: with every mistake, one a line.
    """
    findings = Findings(sources=[source])
    section = read_text(_json_text(raw, source), source, findings)
    layers = [] if section is None else [section]
    return _finished(Params, CHECKS, layers, plugin_options, findings)


def operation_of(path: Path) -> str | None:
    """The operation that the params of a run were written by; None where the file does not say.

    Raises:
        ParamsError: the file cannot be read.
    """
    findings = Findings(sources=[_name(path)])
    section = read_file(path, _name(path), findings)
    if section is None:
        raise findings.error()
    entry = section.get(OPERATION)
    return entry.value if entry is not None and isinstance(entry.value, str) else None


def _json_text(raw: Mapping[str, Any], source: str) -> str:
    """Data as JSON text. Lists that hold the same list many times may take little memory, and spelt out more than any.

    Raises:
        ParamsError: it is no JSON data, or too much for params.
    """
    text, size = [], 0
    try:
        # Piece by piece, so as to stop in time.
        for piece in json.JSONEncoder().iterencode(raw):
            text.append(piece)
            size += len(piece)
            if size > MAX_BYTES:
                raise ParamsError(f"{source}: its params take more than 1 MB; is this the right file?")
    except RecursionError as error:
        raise ParamsError(f"{source}: its params are nested too deeply") from error
    except (TypeError, ValueError) as error:
        raise ParamsError(f"{source}: its params are not JSON data: {one_line(error)}") from error
    return "".join(text)


def _load(
    model: type[T],
    checks: Sequence[Check[T]],
    path: Path | None,
    overrides: Sequence[str],
    plugin_options: PluginOptions,
) -> Loaded[T]:
    findings = Findings()
    files = [] if path is None else _files(path, findings)
    layers = [*files, _overrides(overrides, findings)]
    return _finished(model, checks, layers, plugin_options, findings)


def _finished(
    model: type[T],
    checks: Sequence[Check[T]],
    layers: Iterable[Section],
    plugin_options: PluginOptions,
    findings: Findings,
) -> Loaded[T]:
    """Merges layers, the later ones winning, and validates what comes out."""
    tree: Section = {}
    for layer in layers:
        layer = translated(with_sampling(_without_annotations(layer, findings), findings), findings)
        tree = merge(_without_other_plugin(without_replaced(tree, layer, findings), layer, findings), layer)
    params = validate(model, tree, plugin_options, findings)
    if params is not None and not findings.incomplete:
        _check(params, checks, tree, findings)
    if params is None or findings.problems:
        raise findings.error()
    return Loaded(params, tuple(findings.notes))


def _files(path: Path, findings: Findings) -> list[Section]:
    """The file and all it extends, the one that extends none first."""
    layers: list[Section] = []
    seen: list[str] = []
    extended_by = ""
    while True:
        source = _name(path)
        findings.sources.append(source)
        section = read_file(path, source, findings, extended_by)
        if section is None:
            return layers
        base = section.pop("extends", None)
        layers.insert(0, section)
        seen.append(os.path.realpath(path))
        if base is None:
            return layers
        if not isinstance(base.value, str) or not base.value:
            findings.problem(source, base.key, f"expected the name of a params file, got {shown(base.value)}")
            findings.incomplete = True
            return layers
        path, extended_by = path.parent / base.value, source
        if os.path.realpath(path) in seen:
            chain = " -> ".join([*findings.sources, _name(path)])
            findings.problem(source, base.key, f"the files extend each other in a circle: {chain}")
            findings.incomplete = True
            return layers


def _name(path: Path) -> str:
    """What messages call a file: the path as it was given, less its detours, on one line."""
    name = os.path.normpath(path)
    return name if name.isprintable() else shown(name)


def _overrides(overrides: Sequence[str], findings: Findings) -> Section:
    """What --set says, as if it were one more file."""
    findings.sources.append(OVERRIDE)
    section: Section = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        key = tuple(name.strip().split("."))
        if not equals or not all(key):
            findings.problem(OVERRIDE, (), f"expected key=value such as lr.base_lr=0.02, got {shown(override)}")
            continue
        try:
            value = parse(text)
        except json.JSONDecodeError:
            value = text
        except RecursionError:
            findings.problem(OVERRIDE, key, "the value is nested too deeply")
            continue
        entry = as_entry(value, OVERRIDE, key, findings)
        if entry is not None:
            section = merge(section, with_sampling(replaced({}, key, entry), findings))
    return section


def _without_annotations(layer: Section, findings: Findings) -> Section:
    """Drops what a file says of itself."""
    for name in (SCHEMA, OPERATION):
        entry = layer.get(name)
        if entry is not None and not isinstance(entry.value, str):
            findings.problem(entry.source, entry.key, f"expected a text in double quotes, got {shown(entry.value)}")
        layer = without(layer, (name,))
    return layer


def _without_other_plugin(earlier: Section, later: Section, findings: Findings) -> Section:
    """Where the later layer names another evaluation plug-in, the earlier one's own options no longer mean anything."""
    key = (EVALUATION, "type")
    old, new = find(earlier, key), find(later, key)
    if old is None or new is None or old.value == new.value:
        return earlier
    for name, entry in earlier[EVALUATION].value.items():
        if name not in EvaluationParams.model_fields:
            text = f"'{dotted(entry.key)}' is left out, since {new.source} sets {EVALUATION}.type to {shown(new.value)}"
            findings.note(entry.source, text)
            earlier = without(earlier, (EVALUATION, name))
    return earlier


def _check(params: T, checks: Sequence[Check[T]], tree: Section, findings: Findings) -> None:
    """Records what does not go together; what involves a key that is already wrong is left for the next time."""
    for check in checks:
        for conflict in check(params):
            keys = [tuple(key.split(".")) for key in conflict.keys]
            if any(findings.is_doubtful(key) for key in keys):
                continue
            given = [spelt(tree, key) for key in keys]
            source = next((source for source, _ in given if source), findings.sources[0])
            findings.problem(source, given[0][1], conflict.text)
