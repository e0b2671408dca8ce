"""Replace the predecessor's spellings in params files: how; config/legacy_params.py and legacy_eval.py say which."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

from config.errors import Findings, Key, dotted, shown
from config.reading import Settings
from config.sections import Sections, fields_of, nearest


class Meaning(NamedTuple):
    """What old keys mean: the new keys with their values, and what the note says instead of naming these."""

    new: dict[str, Any]
    note: str = ""


Translation = Callable[..., Meaning | dict[str, Any] | None]
"""Old values -> their meaning; {} if the old value is our default, None if nothing is to be done. Raises ValueError."""


class Spelling(NamedTuple):
    """Keys of the predecessor's files that mean something together, mostly a single one."""

    keys: tuple[str, ...]
    translate: Translation
    """Called with the values of `keys` and then of `beside`; None for those that the file lacks."""
    beside: tuple[str, ...] = ()
    """Keys that the meaning depends on, too; they stay, or get a new value."""
    overrules: bool = False
    """It wins over other spellings of the same setting in the file, as it did in the predecessor's code."""
    even_if_missing: bool = False
    """It also applies where only a key of `beside` is in the file."""


def translate(layer: Settings, spellings: Sequence[Spelling], known: set[str], findings: Findings) -> None:
    """Replace the predecessor's spellings in one file, with a note for each; `known` are our top-level keys."""
    for spelling in spellings:
        given = [key for key in spelling.keys if _key(key) in layer]
        if given or (spelling.even_if_missing and any(_key(key) in layer for key in spelling.beside)):
            _apply(spelling, given, layer, findings)
    _drop_old_sections(layer, spellings, known, findings)


def adapt_values(settings: Settings, sections: Sections, findings: Findings) -> None:
    """Turn texts "true" and "false" where a boolean is expected, and whole floats where an integer is, into these."""
    for key, annotation in fields_of(sections):
        if key not in settings:
            continue
        types, value = set(_types(annotation)), settings.get(key)
        source, written = settings.origin(key)
        if bool in types and str not in types and value in ("true", "false"):
            settings.put(key, value == "true", (source, written))
            findings.note(source, f"'{dotted(written)}' is the text \"{value}\"; it means {value} without quotes")
        elif int in types and float not in types and (whole := _as_whole(value)) is not None:
            settings.put(key, whole, (source, written))
            findings.note(source, f"'{dotted(written)}' {shown(value)} means {shown(whole)}")


def is_flag(value: Any) -> bool:
    """A boolean, which may be a text; a ValueError for anything else."""
    if value in ("true", "false"):
        return value == "true"
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {shown(value)}")


def is_on(value: Any) -> bool:
    """Whether a switch is on."""
    return value is True or value == "true"


def is_off(value: Any) -> bool:
    """The ways to leave a strength, count or choice out; a plain 0 needs no translation."""
    return value is False or value in (None, "", "false")


def is_zero(value: Any) -> bool:
    """The same, or 0."""
    return is_off(value) or (type(value) in (int, float) and value == 0)


def renamed(old: str, new: str) -> Spelling:
    """A key with another name."""
    return Spelling((old,), lambda value: {new: value})


def devices(old: str) -> Spelling:
    """One GPU's number, a list, or a text such as "0,1"."""

    def parallels(value: Any) -> dict[str, Any]:
        if isinstance(value, str):
            try:
                return {"parallels": [int(part) for part in value.split(",")] if value.strip() else []}
            except ValueError:
                raise ValueError(f'expected GPU numbers such as "0,1", got {shown(value)}') from None
        return {"parallels": [value] if type(value) is int else value}

    return Spelling((old,), parallels)


def plugin_name(old: str) -> Spelling:
    """Names of evaluation plug-ins with the predecessor's typing errors, and the text "None"."""
    names = {"None": None, "market_evalute": "market_evaluate", "classificaton_evaluate": "classification_evaluate"}
    return Spelling(
        (old,), lambda value: {"evaluation_params.type": names.get(value, value) if isinstance(value, str) else value}
    )


def _apply(spelling: Spelling, given: list[str], layer: Settings, findings: Findings) -> None:
    """Replace the old keys of a spelling, those that are `given`, by their meaning."""
    # Where none is given, the mistakes and notes are of the first one that is missing.
    old = given or [key for key in spelling.beside if _key(key) in layer][:1]
    origin = layer.origin(_key(old[0]))
    values = [layer.get(_key(key)) for key in (*spelling.keys, *spelling.beside)]
    try:
        meaning = spelling.translate(*values)
    except ValueError as error:
        findings.mistake(*origin, str(error))
        for key in given:
            findings.doubtful.add(_key(key))
            layer.remove(_key(key))
        return
    if meaning is None:
        return
    new, note = meaning if isinstance(meaning, Meaning) else (meaning, "")
    if len(given) == 1 and list(new) == given and _same(new[given[0]], values[0]):
        return
    findings.note(origin[0], _note(given or spelling.keys[:1], layer, new, note))
    for key in given:
        layer.remove(_key(key))
    for name, item in new.items():
        key = _key(name)
        _make_room(layer, key, findings)
        if key in layer and not spelling.overrules and name not in spelling.beside and layer.get(key) != item:
            other = dotted(layer.origin(key)[1])
            findings.mistake(*origin, f"'{other}' is given as well, which is the same setting; keep one of the two")
            findings.doubtful.add(key)
        else:
            layer.put(key, item, origin)


def _key(name: str) -> Key:
    return tuple(name.split("."))


def _make_room(layer: Settings, key: Key, findings: Findings) -> None:
    """Remove a value that stands where `key` needs a section; it is a mistake."""
    for depth in range(1, len(key)):
        above = key[:depth]
        if above in layer and not isinstance(layer.get(above), dict):
            findings.mistake(*layer.origin(above), f"expected an object, got {shown(layer.get(above))}")
            findings.doubtful.add(above)
            layer.remove(above)


def _same(one: Any, other: Any) -> bool:
    """Equality as in JSON: false is not 0."""
    return type(one) is type(other) and one == other


def _note(keys: Sequence[str], layer: Settings, new: dict[str, Any], note: str) -> str:
    values = {key: layer.get(_key(key)) for key in keys if _key(key) in layer}
    named = [f"'{key}' {shown(values[key])}" if key in values else f"'{key}'" for key in keys]
    old, verb = " and ".join(named).replace(" an object", ""), "is" if len(keys) == 1 else "are"
    if len(keys) > 2:
        old, verb = f"'{_key(keys[0])[0]}'", "is"
    if note:
        return f"{old} {note}"
    if not new:
        return f"{old} {verb} the predecessor's and switched off, as by default here"
    meaning = ", ".join(f"'{key}' {shown(item)}" for key, item in new.items())
    return f"{old} {verb} the predecessor's spelling of {meaning}"


def _drop_old_sections(layer: Settings, spellings: Sequence[Spelling], known: set[str], findings: Findings) -> None:
    """Remove sections that only the predecessor had; keys in them that the table lacks are mistakes."""
    keys = [key.partition(".") for spelling in spellings for key in spelling.keys]
    for name in sorted({section for section, _, _ in keys} - known):
        if isinstance(layer.data.get(name), dict):
            for inner in layer.data[name]:
                near = nearest(inner, [key for section, _, key in keys if section == name])
                hint = f"; did you mean '{near}'?" if near else ""
                findings.mistake(*layer.origin((name, inner)), f"unknown key{hint}")
            del layer.data[name]


def _types(annotation: Any) -> Iterator[Any]:
    """The plain types in a type annotation; those of a `Literal` are none."""
    if get_origin(annotation) is Literal:
        return
    inner = get_args(annotation)
    yield from (found for part in inner for found in _types(part)) if inner else (annotation,)


def _as_whole(value: Any) -> int | list[Any] | None:
    """A whole float, or a list that has one, with integers instead; None for anything else."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    if isinstance(value, list):
        whole = [_as_whole(item) if isinstance(item, float) else None for item in value]
        if whole != [None] * len(value):
            return [item if new is None else new for item, new in zip(value, whole, strict=True)]
    return None
