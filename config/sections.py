"""Which keys a params tree has, and which one a misspelt key was meant to be."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from config.errors import Key, dotted
from utils.options import Options

Sections = dict[tuple[str, ...], type[Options]]
"""The options class of each section; () is the file's top level."""


def sections_of(model: type[Options], at: tuple[str, ...] = ()) -> Sections:
    """Every section of a tree of options, the outer before the inner."""
    found: Sections = {at: model}
    for name, field in model.model_fields.items():
        inner = _options_class(field.annotation)
        if inner is not None:
            found |= sections_of(inner, (*at, name))
    return found


def fields_of(sections: Sections) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Key and type annotation of every field."""
    for at, model in sections.items():
        for name, field in model.model_fields.items():
            yield (*at, name), field.annotation


def allowed_values(annotation: Any) -> tuple[Any, ...]:
    """The values of every `Literal` in a type annotation."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for part in get_args(annotation) for value in allowed_values(part))


def nearest(word: str, words: list[str], cutoff: float = 0.6) -> str | None:
    """The word most like `word`, whatever the case of its letters; None where all are too different."""
    by_case = {other.casefold(): other for other in words}
    matches = get_close_matches(word.casefold(), by_case, n=1, cutoff=cutoff)
    return by_case[matches[0]] if matches else None


def suggestion(key: Key, sections: Sections) -> tuple[str, tuple[str, ...]] | None:
    """What an unknown key was probably meant to be: the words to say it in, and the key.

    First the same name in another section, then a similar one in the same section, then a similar one elsewhere.
    """
    name, at = str(key[-1]), tuple(str(part) for part in key[:-1])
    elsewhere = {field[-1]: field for field, _ in reversed(list(fields_of(sections))) if field[:-1] != at}
    here = list(sections[at].model_fields) if at in sections else []
    meant = elsewhere.get(name)
    if meant is None:
        similar = nearest(name, here)
        meant = (*at, similar) if similar else elsewhere.get(nearest(name, list(elsewhere), cutoff=0.8) or "")
    if meant is None:
        return None
    where = " at the top level" if len(meant) == 1 and at else ""
    return f"'{meant[-1] if meant[:-1] == at else dotted(meant)}'{where}", meant


def _options_class(annotation: Any) -> type[Options] | None:
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return annotation
    inner = (_options_class(part) for part in get_args(annotation))
    return next((model for model in inner if model is not None), None)
