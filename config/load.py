"""params.json -> Params, or one message that lists every mistake of every file and override."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from config.checks import CHECKS, EVALUATION_CHECKS, Check
from config.checks.training import SCHEDULES_OF
from config.errors import Findings, dotted, one_line, shown
from config.eval_params import EvalParams
from config.evaluation import EvaluationParams
from config.legacy import Spelling, translate
from config.legacy_params import SPELLINGS
from config.params import Params
from config.reading import Settings, is_storable, parse, read_content, read_file
from config.validation import EVALUATION, PluginOptions, validate
from utils.errors import ParamsError
from utils.options import Options

OVERRIDE = "--set"
SCHEMA = "$schema"
"""In a params file: the schema with which an editor completes it."""
OPERATION = "$operation"
"""In the params of a run's folder: the operation it was started with."""
SCHEDULE = ("lr", "schedule")
SAMPLING = "batch_sampling_params"
NOTATION = "[1-9][0-9]{0,5}\\*[1-9][0-9]{0,5}"
"""Sampling as the tables write it: "32*2" is 32 identities with 2 images each, "64*1" 64 random images."""
T = TypeVar("T", bound=Options)


class Loaded(NamedTuple, Generic[T]):
    """Valid params, and notes for the log about the predecessor's spellings in their files."""

    params: T
    notes: tuple[str, ...]


def load_params(path: Path, overrides: Sequence[str] = (), *, plugin_options: PluginOptions) -> Loaded[Params]:
    """Read the training params in a file.

    Args:
        path: a JSON file; "extends" in it names another file that it changes.
        overrides: texts such as "lr.base_lr=0.02"; the value is JSON or, where it is not, a text. An object is
            merged into the section it names. A later override wins over an earlier one.
        plugin_options: name of an evaluation plug-in -> its options class; raises ParamsError for an unknown name.

    Raises:
        ParamsError: with every mistake, one a line.
    """
    findings = Findings()
    return _validated(Params, CHECKS, SPELLINGS, _layers(path, overrides, findings), plugin_options, findings)


def load_eval_params(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    plugin_options: PluginOptions,
    plugin_of: Callable[[str], str | None] | None = None,
) -> Loaded[EvalParams]:
    """Read the evaluator's params in a file, None for the defaults; other arguments and errors as for `load_params`.

    Args:
        plugin_of: `model_path` -> the plug-in that the model was trained with, None if there was none. It is asked
            where the params have keys of a plug-in and name none.
    """
    # Here, as only an evaluation reads them.
    from config.legacy_eval import SPELLINGS

    findings = Findings()
    layers = _layers(path, overrides, findings)

    def take_plugin_of_model(merged: Settings) -> None:
        section = merged.get((EVALUATION,))
        if plugin_of and isinstance(section, dict) and section.get("type") is None:
            model = merged.get(("model_path",))
            if section.keys() - EvaluationParams.model_fields.keys() and isinstance(model, str | None):
                origin = merged.origin((EVALUATION, "type"))
                merged.put((EVALUATION, "type"), plugin_of(model or EvalParams().model_path), origin)

    return _validated(EvalParams, EVALUATION_CHECKS, SPELLINGS, layers, plugin_options, findings, take_plugin_of_model)


def params_from_dict(
    raw: Mapping[str, Any], source: str, plugin_options: PluginOptions, overrides: Sequence[str] = ()
) -> Loaded[Params]:
    """Read the training params stored in a checkpoint; `source` is its name in messages.

    Raises:
        ParamsError: with every mistake, one a line.
    """
    findings = Findings(sources=[source])
    try:
        content = json.dumps(raw).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ParamsError(f"{source}: its params are not JSON data: {one_line(error)}") from error
    try:
        data = read_content(content, source, findings)
    except ValueError as error:
        raise ParamsError(f"{source}: {error}") from error
    layers = [Settings(data, source), _overrides(overrides, findings)]
    return _validated(Params, CHECKS, SPELLINGS, layers, plugin_options, findings)


def operation_of(path: Path) -> str | None:
    """Read which operation wrote the params of a run; None where the file does not say.

    Raises:
        ParamsError: the file cannot be read.
    """
    try:
        operation = read_file(path, _name(path), Findings()).get(OPERATION)
    except ValueError as error:
        raise ParamsError(f"{_name(path)}: {error}") from error
    return operation if isinstance(operation, str) else None


def _layers(path: Path | None, overrides: Sequence[str], findings: Findings) -> list[Settings]:
    """Read the settings of the files and overrides, the later ones winning."""
    return [*([] if path is None else _files(path, findings)), _overrides(overrides, findings)]


def _validated(
    model: type[T],
    checks: Sequence[Check[T]],
    spellings: Sequence[Spelling],
    layers: Iterable[Settings],
    plugin_options: PluginOptions,
    findings: Findings,
    complete: Callable[[Settings], None] = lambda _: None,
) -> Loaded[T]:
    """Merge layers, the later ones winning, `complete` the result, and validate it."""
    merged, layers = Settings({}, ""), list(layers)
    for layer in layers:
        _drop_annotations(layer, findings)
        _expand_sampling(layer, findings)
        translate(layer, spellings, {*model.model_fields}, findings)
        _replace_batch_size(merged, layer, findings)
        _drop_options_of_other_plugin(merged, layer, findings)
        merged.merge(layer)
    _drop_options_of_other_schedules(merged, layers)
    complete(merged)
    params = validate(model, merged, plugin_options, findings)
    if params is not None and not findings.incomplete:
        _check(params, checks, merged, findings)
    if params is None or findings.mistakes:
        raise findings.error()
    return Loaded(params, tuple(findings.notes))


def _files(path: Path, findings: Findings) -> list[Settings]:
    """Read the file and all it extends, the one that extends none first."""
    layers: list[Settings] = []
    seen: list[str] = []
    extended_by = ""
    while True:
        source = _name(path)
        findings.sources.append(source)
        seen.append(os.path.realpath(path))
        try:
            data = read_file(path, source, findings)
        except ValueError as error:
            findings.mistake(source, (), f"{error}{extended_by}", incomplete=True)
            return layers
        base = data.pop("extends", None)
        layers.insert(0, Settings(data, source))
        if base is None:
            return layers
        if not isinstance(base, str) or not base:
            text = f"expected the name of a params file, got {shown(base)}"
            findings.mistake(source, ("extends",), text, incomplete=True)
            return layers
        path, extended_by = path.parent / base, f" ({source} extends it)"
        if os.path.realpath(path) in seen:
            text = f"the files extend each other in a circle: {' -> '.join([*findings.sources, _name(path)])}"
            findings.mistake(source, ("extends",), text, incomplete=True)
            return layers


def _name(path: Path) -> str:
    """The path in messages: normalised, on one line."""
    name = os.path.normpath(path)
    return name if name.isprintable() else shown(name)


def _overrides(overrides: Sequence[str], findings: Findings) -> Settings:
    """Read all overrides as the settings of one more file, so that their order matters only for the same key."""
    findings.sources.append(OVERRIDE)
    merged = Settings({}, OVERRIDE)
    for override in overrides:
        name, equals, text = override.partition("=")
        key = tuple(name.strip().split("."))
        if not equals or not all(key):
            findings.mistake(OVERRIDE, (), f"expected key=value such as lr.base_lr=0.02, got {shown(override)}")
            continue
        try:
            value = parse(text, OVERRIDE, key, findings)
        except json.JSONDecodeError:
            value = text
        except ValueError as error:
            findings.mistake(OVERRIDE, key, one_line(error))
            continue
        if not isinstance(value, str) or is_storable(value, OVERRIDE, key, findings):
            layer = Settings({}, OVERRIDE)
            layer.put(key, value, (OVERRIDE, key))
            _expand_sampling(layer, findings)
            merged.merge(layer)
    return merged


def _drop_annotations(layer: Settings, findings: Findings) -> None:
    """Remove the keys that are not settings."""
    for name in (SCHEMA, OPERATION):
        if name in layer.data:
            value = layer.data.pop(name)
            if not isinstance(value, str):
                text = f"expected a text in double quotes, got {shown(value)}"
                findings.mistake(*layer.origins[name,], text)


def _expand_sampling(layer: Settings, findings: Findings) -> None:
    """Spell out the notation of the tables, which replaces the sampling of earlier layers."""
    key, text = (SAMPLING,), layer.data.get(SAMPLING)
    if not isinstance(text, str):
        return
    origin = layer.origin(key)
    layer.remove(key)
    if not re.fullmatch(NOTATION, text):
        findings.mistake(*origin, f'expected an object, or identities*images such as "32*2", got {shown(text)}')
        findings.doubtful.add(key)
        return
    identities, images = (int(number) for number in text.split("*"))
    # With one image per identity the tables mean random sampling.
    for name, value in {"class_balanced": images > 1, "P": identities, "K": images}.items():
        layer.put((SAMPLING, name), value, origin)
    layer.replaces.add(SAMPLING)


def _replace_batch_size(earlier: Settings, layer: Settings, findings: Findings) -> None:
    """Where a layer gives its sampling as a text, drop the batch size of earlier layers; its own must agree."""
    if SAMPLING not in layer.replaces:
        return
    earlier.data.pop("batch_size", None)
    balanced, identities, images = (layer.get((SAMPLING, name)) for name in ("class_balanced", "P", "K"))
    size = layer.data.get("batch_size")
    # A later override may have put anything into the section; validation refuses it.
    if balanced is not False or not type(identities) is type(images) is int:
        return
    if size not in (identities * images, None):
        text = f"is {shown(size)}, but {SAMPLING} says {identities * images} images; leave one of the two out"
        findings.mistake(*layer.origin(("batch_size",)), text)
        findings.doubtful.add(("batch_size",))


def _drop_options_of_other_plugin(earlier: Settings, later: Settings, findings: Findings) -> None:
    """Where a later layer names another evaluation plug-in, remove the own options of the earlier one."""
    key = (EVALUATION, "type")
    if key not in earlier or key not in later or earlier.get(key) == later.get(key):
        return
    for name in [name for name in earlier.get(key[:1]) if name not in EvaluationParams.model_fields]:
        source, written = earlier.origin((EVALUATION, name))
        other = f"{later.origin(key)[0]} sets {EVALUATION}.type to {shown(later.get(key))}"
        findings.note(source, f"'{dotted(written)}' is left out, since {other}")
        earlier.remove((EVALUATION, name))


def _drop_options_of_other_schedules(merged: Settings, layers: Sequence[Settings]) -> None:
    """Remove options of other schedules that were given before the layer that names the schedule."""
    named = max((place for place, layer in enumerate(layers) if SCHEDULE in layer), default=0)
    for name, schedules in SCHEDULES_OF.items():
        key = (*SCHEDULE[:1], name)
        is_meant = merged.get(SCHEDULE) in schedules or any(key in layer for layer in layers[named:])
        if key in merged and not is_meant:
            merged.remove(key)


def _check(params: T, checks: Sequence[Check[T]], settings: Settings, findings: Findings) -> None:
    """Record conflicts between settings; those of a key that is already wrong are left for the next time."""
    for check in checks:
        for conflict in check(params):
            keys = [tuple(key.split(".")) for key in conflict.keys]
            if any(findings.is_doubtful(key) for key in keys):
                continue
            origins = [settings.origin(key) for key in keys]
            source = next((source for source, _ in origins if source), findings.sources[0])
            findings.mistake(source, origins[0][1], conflict.text)
