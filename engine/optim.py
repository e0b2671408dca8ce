"""The optimizer, its groups of parameters and their learning rates, and which layers are trained."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from config.params import Params
from models.network import ReidNetwork


class GroupRule(NamedTuple):
    """Which parameters form a group, and its learning rate."""

    name: str
    """Of the learning rate, in logs."""
    lr: float
    """The base rate."""
    matches: Callable[[str], bool]
    """Takes the name of a parameter; the first rule that matches has it."""


def group_rules(params: Params) -> list[GroupRule]:
    """The backbone's parameters have `lr.base_lr`; those of heads and losses `lr.fc_lr`."""
    return [
        GroupRule("base_lr", params.lr.base_lr, lambda name: name.startswith("network.backbone.")),
        GroupRule("fc_lr", params.lr.fc_lr, lambda name: True),
    ]


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], rules: Sequence[GroupRule]
) -> list[dict[str, Any]]:
    """The groups of an optimizer; a parameter without gradient, and a group without parameters, is left out.

    Each group carries its `name` and its `base_lr`, which a schedule multiplies.
    """
    groups = [{"params": [], "lr": rule.lr, "base_lr": rule.lr, "name": rule.name} for rule in rules]
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            place = next(place for place, rule in enumerate(rules) if rule.matches(name))
            groups[place]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def build_optimizer(params: Params, network: ReidNetwork, criterion: nn.Module) -> Optimizer:
    """The optimizer over all trained parameters of network and losses.

    All parameters are updated in one pass over memory, except by rmsprop, of which torch has no fused version.
    """
    groups = parameter_groups(_named_parameters(network, criterion), group_rules(params))
    decay, momentum = params.weight_decay, params.momentum
    match params.optimizer:
        case "sgd" | "nesterov":
            nesterov = params.optimizer == "nesterov"
            return SGD(groups, momentum=momentum, weight_decay=decay, nesterov=nesterov, fused=True)
        case "adam" | "amsgrad":
            return Adam(groups, weight_decay=decay, amsgrad=params.optimizer == "amsgrad", fused=True)
        case "adamw":
            return AdamW(groups, weight_decay=decay, fused=True)
        case "rmsprop":
            return RMSprop(groups, momentum=momentum, weight_decay=decay)


def set_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Set each group's rate to its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def learning_rates(*optimizers: Optimizer) -> dict[str, float]:
    """The current rate of each group, by name."""
    return {group["name"]: group["lr"] for optimizer in optimizers for group in optimizer.param_groups}


def fill_momentum(optimizer: Optimizer) -> None:
    """Give SGD a momentum of zero before its first step; this changes no step.

    The fused version takes uninitialised memory, and leaves it uninitialised if its first step is skipped.
    """
    if not isinstance(optimizer, SGD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def freeze_all_but_classifiers(network: ReidNetwork) -> None:
    """Fine-tuning: only the classification layers get gradients."""
    network.requires_grad_(False)
    for classifier in network.classifiers():
        classifier.requires_grad_(True)


def set_train_mode(network: ReidNetwork, *, fine_tune: bool) -> None:
    """Training mode; when fine-tuning, frozen layers stay in evaluation mode so that their averages do not drift."""
    network.train(not fine_tune)
    for head in network.heads():
        # The dropout before a classifier is part of how that is trained.
        head.feature_dropout.train()
        head.classifier.train()


def _named_parameters(network: nn.Module, criterion: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    yield from network.named_parameters(prefix="network")
    yield from criterion.named_parameters(prefix="criterion")
