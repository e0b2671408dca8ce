"""Files written for the predecessor: its spellings, what they are called here, and what is not available yet."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, get_args

from config.entries import Entry, Findings, Section, dotted, find, plain, replaced, shown, without
from config.params import Params
from config.sections import Sections, allowed_values, fields_of, nearest

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
    if new == {spelling.old: value}:
        return section
    findings.note(entry.source, _note(spelling.old, value, new))
    section = without(section, old)
    for name, item in new.items():
        key = tuple(name.split("."))
        other = find(section, key)
        if other is not None and not spelling.overrules:
            text = f"'{dotted(other.key)}' is given as well, which is the same setting; keep one of the two"
            findings.problem(entry.source, entry.key, text)
            findings.doubtful.add(key)
        else:
            # A section that is only renamed keeps the origins of what is in it.
            section = replaced(section, key, Entry(entry.value if item is value else item, entry.source, entry.key))
    return section


def _note(old: str, value: Any, new: dict[str, Any]) -> str:
    if not new:
        return f"'{old}' is the predecessor's; it is switched off there and left out here"
    if list(new) == [old]:
        return f"'{old}' {shown(value)} is the predecessor's spelling of {shown(new[old])}"
    if list(new.values()) == [value]:
        return f"'{old}' is the predecessor's name of '{next(iter(new))}'"
    meaning = ", ".join(f"'{key}' {shown(item)}" for key, item in new.items())
    return f"'{old}' {shown(value)} is the predecessor's way to set {meaning}"


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


def _flag(value: Any) -> bool:
    if value in ("true", "false"):
        return value == "true"
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {shown(value)}")


def _renamed(new: str) -> Translation:
    return lambda value: {new: value}


def _not_yet(value: Any) -> dict[str, Any]:
    """A switch, probability or count of something this framework cannot do: only "off" can be translated."""
    if value not in (None, 0, "", "false"):
        raise ValueError(f"not available yet, got {shown(value)}; switch it off or remove it")
    return {}


def _margin_softmax(value: Any) -> dict[str, Any]:
    settings = _object(value)
    unknown = sorted(settings.keys() - {"margin", "scale", "step"})
    if unknown:
        raise ValueError(f"unknown key {shown(unknown[0])}; the predecessor has margin, scale and step")
    margins = settings.get("margin")
    for margin in margins if isinstance(margins, list) else [margins]:
        if margin not in (None, 0):
            raise ValueError(f"a margin is not available yet, got {shown(margin)}; set it to 0 or remove the section")
    return {}


def _generator(value: Any) -> dict[str, Any]:
    if _flag(_object(value).get("adv_train", False)):
        raise ValueError("adv_train is not available yet; switch it off or remove the section")
    return {}


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {shown(value)}")
    return value


def _softmax_only(value: Any) -> dict[str, Any]:
    return {"tri_loss_margin": 0} if _flag(value) else {}


def _colour_jitter(value: Any) -> dict[str, Any]:
    strength = 0.2 if _flag(value) else 0.0
    return {f"data_augmentation.{change}": strength for change in ("brightness", "contrast", "saturation")}


def _normalisation(value: Any) -> dict[str, Any]:
    return {"data_augmentation.normalisation": "imagenet" if _flag(value) else "half"}


def _devices(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            return {"parallels": [int(part) for part in value.split(",")] if value.strip() else []}
        except ValueError:
            raise ValueError(f'expected GPU numbers such as "0,1", got {shown(value)}') from None
    return {"parallels": [value] if type(value) is int else value}


def _optimizer(value: Any) -> dict[str, Any]:
    lower = value.lower() if isinstance(value, str) else value
    return {"optimizer": lower if lower in allowed_values(Params.model_fields["optimizer"].annotation) else value}


def _plugin_name(value: Any) -> dict[str, Any]:
    names = {"None": None, "market_evalute": "market_evaluate", "classificaton_evaluate": "classification_evaluate"}
    return {"evaluation_params.type": names.get(value, value) if isinstance(value, str) else value}


SPELLINGS = (
    Spelling("epochs", _renamed("epoch")),
    Spelling("gpus", _devices),
    Spelling("optimizer", _optimizer),
    Spelling("tri_loss_params.margin", _renamed("tri_loss_margin")),
    Spelling("tri_loss_params.lambda_tri", _renamed("tri_loss_lambda_tri")),
    Spelling("tri_loss_params.lambda_cls", _renamed("tri_loss_lambda_cls")),
    Spelling("tri_loss_params.use_adaptive_weight", _not_yet),
    Spelling("softmax_only", _softmax_only, overrules=True),
    Spelling("focal_loss", _not_yet),
    Spelling("asoftmax_params", _margin_softmax),
    Spelling("batch_sampling_params.batch_size", _renamed("batch_size")),
    Spelling("data_augmentation.colour_jitering", _colour_jitter),
    Spelling("data_augmentation.colour_jittering", _colour_jitter),
    Spelling("data_augmentation.crop_h", _renamed("data_augmentation.resize_h")),
    Spelling("data_augmentation.crop_w", _renamed("data_augmentation.resize_w")),
    Spelling("data_augmentation.imagenet_static", _normalisation),
    Spelling("model_params.feature_gobal_dim", _renamed("model_params.feature_global_dim")),
    Spelling("model_params.random_drop_branchs", _not_yet),
    Spelling("model_params.random_drop_branches", _not_yet),
    Spelling("model_params.spectral_trans", _not_yet),
    Spelling("model_params.feature_mask", _not_yet),
    Spelling("gan_params", _generator),
    Spelling("evaluation_params.type", _plugin_name),
    Spelling("evaluation_params.step", _renamed("evaluation_params.every_epochs")),
)
"""Every key of the predecessor that differs from ours; a name that follows in time replaces its `_not_yet` here."""
