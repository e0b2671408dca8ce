"""What the predecessor's values mean here: old value -> the new keys and their values. Each raises ValueError."""

import math
from typing import Any

from config.entries import shown
from config.params import Params
from config.sections import allowed_values


def flag(value: Any) -> bool:
    """A boolean, which may be a text."""
    if value in ("true", "false"):
        return value == "true"
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {shown(value)}")


def focal_loss(value: Any) -> dict[str, Any]:
    """A switch, or the power itself."""
    if _is_on(value):
        # The power that did best in the paper: Lin et al. 2017, arXiv 1708.02002, table 1b.
        return {"focal_gamma": 2.0}
    return {"focal_gamma": 0.0 if _is_off(value) else _number(value, "true, false or a power of at least 0")}


def margin_softmax(value: Any) -> dict[str, Any]:
    """The margins, one for each `step` iterations, and the length that embeddings are given."""
    settings = _object(value)
    unknown = sorted(settings.keys() - {"margin", "scale", "step"})
    if unknown:
        raise ValueError(f"unknown key {shown(unknown[0])}; the predecessor has margin, scale and step")
    given = (settings.get(key) for key in ("margin", "scale", "step"))
    margin, scale, step = (0 if _is_off(item) else item for item in given)
    margins = [
        _number(item, "margins from 0 to below 1", below=1.0)
        for item in (margin if isinstance(margin, list) else [margin])
    ]
    _number(scale, "a scale of at least 0")
    if type(step) is not int or step < 0:
        raise ValueError(f"expected a whole number of iterations as step, got {shown(step)}")
    if not any(margins) and scale == 0:
        return {}
    new = {"model_params.classifier": "cosine", "model_params.cosine_scale": scale}
    if step:
        return new | {"softmax_margin": margins, "softmax_margin_step": step}
    return new | {"softmax_margin": margins[0] if len(margins) == 1 else margins}


def softmax_only(value: Any) -> dict[str, Any]:
    """No triplet loss, whatever is said of it elsewhere."""
    return {"tri_loss_margin": 0, "tri_loss_adaptive_weight": False} if flag(value) else {}


def dropped_branches(value: Any) -> dict[str, Any]:
    """A count; there is no telling which one is meant by "on"."""
    if _is_on(value):
        raise ValueError(f"expected how many branches a step leaves out, such as 1, got {shown(value)}")
    return {"model_params.random_drop_branches": 0 if _is_off(value) else value}


def feature_mask(value: Any) -> dict[str, Any]:
    """A switch for all branches at once."""
    off = _is_off(value) or value == 0
    return {"model_params.feature_mask": "none" if off else "all" if _is_on(value) else value}


def temperature(value: Any) -> dict[str, Any]:
    """The spectral transform's sigma, or false."""
    return {"model_params.spectral_trans": 0.0 if _is_off(value) else value}


def colour_jitter(value: Any) -> dict[str, Any]:
    """One switch for three strengths."""
    strength = 0.2 if flag(value) else 0.0
    return {f"data_augmentation.{change}": strength for change in ("brightness", "contrast", "saturation")}


def normalisation(value: Any) -> dict[str, Any]:
    """A switch between two normalisations."""
    return {"data_augmentation.normalisation": "imagenet" if flag(value) else "half"}


def devices(value: Any) -> dict[str, Any]:
    """One number, a list, or a text such as "0,1"."""
    if isinstance(value, str):
        try:
            return {"parallels": [int(part) for part in value.split(",")] if value.strip() else []}
        except ValueError:
            raise ValueError(f'expected GPU numbers such as "0,1", got {shown(value)}') from None
    return {"parallels": [value] if type(value) is int else value}


def optimizer(value: Any) -> dict[str, Any]:
    """A name in letters of any case."""
    lower = value.lower() if isinstance(value, str) else value
    return {"optimizer": lower if lower in allowed_values(Params.model_fields["optimizer"].annotation) else value}


def plugin_name(value: Any) -> dict[str, Any]:
    """Names with the predecessor's slips, and a text for "none"."""
    names = {"None": None, "market_evalute": "market_evaluate", "classificaton_evaluate": "classification_evaluate"}
    return {"evaluation_params.type": names.get(value, value) if isinstance(value, str) else value}


def _is_on(value: Any) -> bool:
    return value is True or value == "true"


def _is_off(value: Any) -> bool:
    """The ways to leave a strength, count or choice out; a plain 0 needs no translation."""
    return value is False or value in (None, "", "false")


def _number(value: Any, expected: str, below: float = math.inf) -> float:
    """`value`, if it is a number from 0 to below `below`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < below:
        raise ValueError(f"expected {expected}, got {shown(value)}")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {shown(value)}")
    return value
