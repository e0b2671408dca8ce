"""Builds a criterion from the options that differ from their defaults."""

from typing import Any

from losses.criterion import Criterion, build_criterion
from losses.options import Distillation, LossOptions
from models.options import ModelParams


def make_criterion(**settings: Any) -> Criterion:
    """Options of the losses, of the distillation and of the updated stripes by name; arguments of build_criterion."""
    arguments = {name: settings.pop(name) for name in ("sizes", "teacher_dim", "generated", "seed") if name in settings}
    model, taught = (
        {name: settings.pop(name) for name in options.model_fields if name in settings}
        for options in (ModelParams, Distillation)
    )
    options = LossOptions(**settings, distillation=Distillation(**taught))
    return build_criterion(options, ModelParams(**model), **arguments)
