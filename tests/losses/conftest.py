"""Builds a criterion from the options that differ from their defaults."""

from typing import Any

from losses.criterion import Criterion, build_criterion
from losses.options import Distillation, LossOptions

NOT_LOSS_OPTIONS = (
    "random_drop_branches",
    "update_max_loss_branch",
    "embedding_dim",
    "teacher_dim",
    "seed",
    "generated_share",
    "lambda_consistency",
)


def make_criterion(**settings: Any) -> Criterion:
    """Options of the losses by name; those of the distillation and the arguments of build_criterion beside them."""
    given = {name: settings.pop(name) for name in NOT_LOSS_OPTIONS if name in settings}
    taught = {name: settings.pop(name) for name in Distillation.model_fields if name in settings}
    return build_criterion(LossOptions(**settings, distillation=Distillation(**taught)), **given)
