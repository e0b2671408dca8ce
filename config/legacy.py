"""Files written for the predecessor: its spellings, its values, and what they are called here."""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

from config.errors import Findings, Key, dotted, shown
from config.params import Params
from config.reading import Settings
from config.sections import Sections, allowed_values, fields_of, nearest

Translation = Callable[[Any], dict[str, Any]]
"""Old value -> the new keys and their values; none where the old value is our default. Raises ValueError."""


class Spelling(NamedTuple):
    """A key of the predecessor's files.

    `overrules`: it wins over other spellings of the same setting in the file, as it did in the predecessor's code.
    """

    old: str
    translate: Translation
    overrules: bool = False


def translate(layer: Settings, findings: Findings) -> None:
    """Replace the predecessor's spellings in one file, with a note for each."""
    for spelling in SPELLINGS:
        if tuple(spelling.old.split(".")) in layer:
            _apply(spelling, layer, findings)
    _drop_old_sections(layer, findings)


def read_booleans(settings: Settings, sections: Sections, findings: Findings) -> None:
    """Turn the texts "true" and "false" into booleans wherever a boolean is expected."""
    for key, annotation in fields_of(sections):
        types = get_args(annotation) or (annotation,)
        if bool in types and str not in types and key in settings and settings.get(key) in ("true", "false"):
            text = settings.get(key)
            source, written = settings.origin(key)
            settings.put(key, text == "true", (source, written))
            findings.note(source, f"'{dotted(written)}' is the text \"{text}\"; it means {text} without quotes")


def _apply(spelling: Spelling, layer: Settings, findings: Findings) -> None:
    """Replace one old key by its translation."""
    old = tuple(spelling.old.split("."))
    value, origin = layer.get(old), layer.origin(old)
    try:
        new = spelling.translate(value)
    except ValueError as error:
        findings.mistake(*origin, str(error))
        findings.doubtful.add(old)
        layer.remove(old)
        return
    if list(new) == [spelling.old] and _same(new[spelling.old], value):
        return
    findings.note(origin[0], _note(spelling.old, value, new))
    layer.remove(old)
    for name, item in new.items():
        key = tuple(name.split("."))
        _make_room(layer, key, findings)
        if key in layer and not spelling.overrules and layer.get(key) != item:
            other = dotted(layer.origin(key)[1])
            findings.mistake(*origin, f"'{other}' is given as well, which is the same setting; keep one of the two")
            findings.doubtful.add(key)
        else:
            layer.put(key, item, origin)


def _make_room(layer: Settings, key: Key, findings: Findings) -> None:
    """Remove a value that stands where `key` needs a section; it is a mistake."""
    above = key[:1]
    if len(key) > 1 and above in layer and not isinstance(layer.get(above), dict):
        findings.mistake(*layer.origin(above), f"expected an object, got {shown(layer.get(above))}")
        findings.doubtful.add(above)
        layer.remove(above)


def _same(one: Any, other: Any) -> bool:
    """Equality as in JSON: false is not 0."""
    return type(one) is type(other) and one == other


def _note(old: str, value: Any, new: dict[str, Any]) -> str:
    if not new:
        return f"'{old}' is switched off, as it is by default here; it is the predecessor's"
    written = "" if isinstance(value, dict) else f" {shown(value)}"
    meaning = ", ".join(f"'{key}' {shown(item)}" for key, item in new.items())
    return f"'{old}'{written} is the predecessor's spelling of {meaning}"


def _drop_old_sections(layer: Settings, findings: Findings) -> None:
    """Remove sections that only the predecessor had; keys in them that the table lacks are mistakes."""
    for name in sorted({spelling.old.split(".")[0] for spelling in SPELLINGS} - set(Params.model_fields)):
        if isinstance(layer.data.get(name), dict):
            known = [spelling.old.split(".")[1] for spelling in SPELLINGS if spelling.old.startswith(f"{name}.")]
            for inner in layer.data[name]:
                near = nearest(inner, known)
                hint = f"; did you mean '{near}'?" if near else ""
                findings.mistake(*layer.origin((name, inner)), f"unknown key{hint}")
            del layer.data[name]


def _flag(value: Any) -> bool:
    """A boolean, which may be a text."""
    if value in ("true", "false"):
        return value == "true"
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {shown(value)}")


def _is_on(value: Any) -> bool:
    return value is True or value == "true"


def _is_off(value: Any) -> bool:
    """The ways to leave a strength, count or choice out; a plain 0 needs no translation."""
    return value is False or value in (None, "", "false")


def _renamed(new: str) -> Translation:
    return lambda value: {new: value}


def _focal_loss(value: Any) -> dict[str, Any]:
    """A switch, or the power itself."""
    if _is_on(value):
        # The power that did best in the paper: Lin et al. 2017, arXiv 1708.02002, table 1b.
        return {"focal_gamma": 2.0}
    return {"focal_gamma": 0.0 if _is_off(value) else value}


def _margin_softmax(value: Any) -> dict[str, Any]:
    """The margins, one for each `step` iterations, and the scale of the embeddings."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {shown(value)}")
    unknown = sorted(value.keys() - {"margin", "scale", "step"})
    if unknown:
        raise ValueError(f"unknown key {shown(unknown[0])}; the predecessor has margin, scale and step")
    given = (value.get(key) for key in ("margin", "scale", "step"))
    margin, scale, step = (0 if _is_off(item) else item for item in given)
    margins = margin if isinstance(margin, list) else [margin]
    off = all(type(item) in (int, float) and item == 0 for item in [*margins, scale])
    # A wrong step is passed on, and validation refuses it.
    if off and type(step) is int and step >= 0:
        return {}
    new = {"model_params.classifier": "cosine", "model_params.cosine_scale": scale}
    if not _same(step, 0):
        return new | {"softmax_margin": margins, "softmax_margin_step": step}
    return new | {"softmax_margin": margins[0] if len(margins) == 1 else margins}


def _softmax_only(value: Any) -> dict[str, Any]:
    return {"tri_loss_margin": 0, "tri_loss_adaptive_weight": False} if _flag(value) else {}


def _dropped_branches(value: Any) -> dict[str, Any]:
    """A count; "on" does not say how many."""
    if _is_on(value):
        raise ValueError(f"expected how many branches a step leaves out, such as 1, got {shown(value)}")
    return {"model_params.random_drop_branches": 0 if _is_off(value) else value}


def _feature_mask(value: Any) -> dict[str, Any]:
    """A switch for all branches at once."""
    off = _is_off(value) or value == 0
    return {"model_params.feature_mask": "none" if off else "all" if _is_on(value) else value}


def _colour_jitter(value: Any) -> dict[str, Any]:
    strength = 0.2 if _flag(value) else 0.0
    return {f"data_augmentation.{change}": strength for change in ("brightness", "contrast", "saturation")}


def _devices(value: Any) -> dict[str, Any]:
    """One number, a list, or a text such as "0,1"."""
    if isinstance(value, str):
        try:
            return {"parallels": [int(part) for part in value.split(",")] if value.strip() else []}
        except ValueError:
            raise ValueError(f'expected GPU numbers such as "0,1", got {shown(value)}') from None
    return {"parallels": [value] if type(value) is int else value}


def _optimizer(value: Any) -> dict[str, Any]:
    """A name in letters of any case."""
    lower = value.lower() if isinstance(value, str) else value
    return {"optimizer": lower if lower in allowed_values(Params.model_fields["optimizer"].annotation) else value}


def _plugin_name(value: Any) -> dict[str, Any]:
    """Names with the predecessor's typing errors, and the text "None"."""
    names = {"None": None, "market_evalute": "market_evaluate", "classificaton_evaluate": "classification_evaluate"}
    return {"evaluation_params.type": names.get(value, value) if isinstance(value, str) else value}


SPELLINGS = (
    Spelling("epochs", _renamed("epoch")),
    Spelling("gpus", _devices),
    Spelling("optimizer", _optimizer),
    Spelling("tri_loss_params.margin", _renamed("tri_loss_margin")),
    Spelling("tri_loss_params.lambda_tri", _renamed("tri_loss_lambda_tri")),
    Spelling("tri_loss_params.lambda_cls", _renamed("tri_loss_lambda_cls")),
    Spelling("tri_loss_params.use_adaptive_weight", _renamed("tri_loss_adaptive_weight")),
    Spelling("softmax_only", _softmax_only, overrules=True),
    Spelling("focal_loss", _focal_loss),
    Spelling("asoftmax_params", _margin_softmax),
    Spelling("batch_sampling_params.batch_size", _renamed("batch_size")),
    Spelling("data_augmentation.colour_jitering", _colour_jitter),
    Spelling("data_augmentation.colour_jittering", _colour_jitter),
    Spelling("data_augmentation.crop_h", _renamed("data_augmentation.resize_h")),
    Spelling("data_augmentation.crop_w", _renamed("data_augmentation.resize_w")),
    Spelling(
        "data_augmentation.imagenet_static",
        lambda value: {"data_augmentation.normalisation": "imagenet" if _flag(value) else "half"},
    ),
    Spelling("model_params.feature_gobal_dim", _renamed("model_params.feature_global_dim")),
    Spelling("model_params.random_drop_branchs", _dropped_branches),
    Spelling(
        "model_params.spectral_trans", lambda value: {"model_params.spectral_trans": 0.0 if _is_off(value) else value}
    ),
    Spelling("model_params.feature_mask", _feature_mask),
    Spelling("gan_params.preheating", _renamed("gan_params.preheat_steps")),
    Spelling("evaluation_params.type", _plugin_name),
    Spelling("evaluation_params.step", _renamed("evaluation_params.every_epochs")),
)
"""Every key of the predecessor that differs from ours, by name or by what may stand there."""
