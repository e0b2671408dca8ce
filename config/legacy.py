"""Files written for the predecessor: its spellings and what they are called here."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, get_args

from config import old_values
from config.entries import Entry, Findings, Key, Section, dotted, find, plain, replaced, shown, without
from config.params import Params
from config.sections import Sections, fields_of, nearest

Translation = Callable[[Any], dict[str, Any]]
"""Old value -> the new keys and their values, none where the old key says what is so anyway. Raises ValueError."""


class Spelling(NamedTuple):
    """A key of the predecessor's files."""

    old: str
    translate: Translation
    overrules: bool = False
    """Whether it wins over what the file says of the same setting elsewhere, as the predecessor's code let it."""


def translated(section: Section, findings: Findings) -> Section:
    """One file with the predecessor's spellings replaced, each with a note."""
    for spelling in SPELLINGS:
        entry = find(section, tuple(spelling.old.split(".")))
        if entry is not None:
            section = _apply(spelling, entry, section, findings)
    return _without_old_sections(section, findings)


def read_booleans(section: Section, sections: Sections, findings: Findings) -> Section:
    """The section with the texts "true" and "false" turned into booleans wherever a boolean is expected."""
    for key, annotation in fields_of(sections):
        types = get_args(annotation) or (annotation,)
        entry = find(section, key)
        if entry is not None and bool in types and str not in types and entry.value in ("true", "false"):
            section = replaced(section, key, replace(entry, value=entry.value == "true"))
            text = f"'{dotted(entry.key)}' is the text {shown(entry.value)}; it means {entry.value} without quotes"
            findings.note(entry.source, text)
    return section


def _apply(spelling: Spelling, entry: Entry, section: Section, findings: Findings) -> Section:
    """Puts one old key's translation in its place."""
    old = tuple(spelling.old.split("."))
    value = plain(entry.value) if isinstance(entry.value, dict) else entry.value
    try:
        new = spelling.translate(value)
    except ValueError as error:
        findings.problem(entry.source, entry.key, str(error))
        findings.doubtful.add(old)
        return without(section, old)
    if list(new) == [spelling.old] and _same(new[spelling.old], value):
        return section
    findings.note(entry.source, _note(spelling.old, value, new))
    section = without(section, old)
    for name, item in new.items():
        key = tuple(name.split("."))
        section = _with_room(section, key, findings)
        other = find(section, key)
        if other is not None and not spelling.overrules and other.value != item:
            text = f"'{dotted(other.key)}' is given as well, which is the same setting; keep one of the two"
            findings.problem(entry.source, entry.key, text)
            findings.doubtful.add(key)
        else:
            # A section that is only renamed keeps the origins of what is in it.
            section = replaced(section, key, Entry(entry.value if item is value else item, entry.source, entry.key))
    return section


def _with_room(section: Section, key: Key, findings: Findings) -> Section:
    """The section, less a value that stands where `key` needs a section; it is recorded."""
    above = section.get(str(key[0]))
    if len(key) == 1 or above is None or isinstance(above.value, dict):
        return section
    findings.problem(above.source, above.key, f"expected an object, got {shown(above.value)}")
    findings.doubtful.add(key[:1])
    return without(section, key[:1])


def _same(one: Any, other: Any) -> bool:
    """Equality as JSON has it: false is not 0."""
    return type(one) is type(other) and one == other


def _note(old: str, value: Any, new: dict[str, Any]) -> str:
    if not new:
        return f"'{old}' is the predecessor's; it is switched off there and left out here"
    if list(new) == [old]:
        return f"'{old}' {shown(value)} is the predecessor's spelling of {shown(new[old])}"
    if len(new) == 1 and _same(next(iter(new.values())), value):
        return f"'{old}' is the predecessor's name of '{next(iter(new))}'"
    meaning = ", ".join(f"'{key}' {shown(item)}" for key, item in new.items())
    written = "" if isinstance(value, dict) else f" {shown(value)}"
    return f"'{old}'{written} is the predecessor's way to set {meaning}"


def _without_old_sections(section: Section, findings: Findings) -> Section:
    """Removes sections that only the predecessor had; what the table does not know in them is a mistake."""
    for name in sorted({spelling.old.split(".")[0] for spelling in SPELLINGS} - set(Params.model_fields)):
        entry = section.get(name)
        if entry is None or not isinstance(entry.value, dict):
            continue
        known = [old.removeprefix(f"{name}.") for old, *_ in SPELLINGS if old.startswith(f"{name}.")]
        for inner in entry.value.values():
            near = nearest(str(inner.key[-1]), known)
            findings.problem(inner.source, inner.key, "unknown key" + (f"; did you mean '{near}'?" if near else ""))
        section = without(section, (name,))
    return section


def _renamed(new: str) -> Translation:
    return lambda value: {new: value}


SPELLINGS = (
    Spelling("epochs", _renamed("epoch")),
    Spelling("gpus", old_values.devices),
    Spelling("optimizer", old_values.optimizer),
    Spelling("tri_loss_params.margin", _renamed("tri_loss_margin")),
    Spelling("tri_loss_params.lambda_tri", _renamed("tri_loss_lambda_tri")),
    Spelling("tri_loss_params.lambda_cls", _renamed("tri_loss_lambda_cls")),
    Spelling("tri_loss_params.use_adaptive_weight", _renamed("tri_loss_adaptive_weight")),
    Spelling("softmax_only", old_values.softmax_only, overrules=True),
    Spelling("focal_loss", old_values.focal_loss),
    Spelling("asoftmax_params", old_values.margin_softmax),
    Spelling("batch_sampling_params.batch_size", _renamed("batch_size")),
    Spelling("data_augmentation.colour_jitering", old_values.colour_jitter),
    Spelling("data_augmentation.colour_jittering", old_values.colour_jitter),
    Spelling("data_augmentation.crop_h", _renamed("data_augmentation.resize_h")),
    Spelling("data_augmentation.crop_w", _renamed("data_augmentation.resize_w")),
    Spelling("data_augmentation.imagenet_static", old_values.normalisation),
    Spelling("model_params.feature_gobal_dim", _renamed("model_params.feature_global_dim")),
    Spelling("model_params.random_drop_branchs", old_values.dropped_branches),
    Spelling("model_params.spectral_trans", old_values.temperature),
    Spelling("model_params.feature_mask", old_values.feature_mask),
    Spelling("gan_params.preheating", _renamed("gan_params.preheat_steps")),
    Spelling("evaluation_params.type", old_values.plugin_name),
    Spelling("evaluation_params.step", _renamed("evaluation_params.every_epochs")),
)
"""Every key of the predecessor that differs from ours, by name or by what may stand there."""
