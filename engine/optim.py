"""The optimizer, its groups of parameters and their learning rates, and which layers are trained."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from config.params import Params
from models.backbones.backbone import Backbone
from models.network import ReidNetwork

BACKBONE = "network.backbone."
"""Start of the names of the backbone's parameters."""


class Group(NamedTuple):
    """What the parameters of a group have in common."""

    name: Literal["base_lr", "fc_lr"]
    """Of the learning rate, in logs."""
    lr_factor: float
    """Of the group's parameters, to the rate of that name."""
    decays: bool
    """Whether the weight decay acts on them."""


GroupOf = Callable[[str, nn.Parameter], Group]
"""Name and parameter -> its group."""


def group_rule(params: Params, backbone: Backbone) -> GroupOf:
    """Which parameter is in which group.

    The backbone's have `lr.base_lr`, less by `lr.layer_decay` with each stage below the last; those of heads and losses
    `lr.fc_lr`; biases `lr.bias_factor` times as much. What has one dimension, such as the weight of a normalisation,
    counts as a bias for the weight decay.

    Source: layer decay: Bao et al. 2022, arXiv 2106.08254; factor of biases: fast-reid's BIAS_LR_FACTOR; weight decay:
    timm's param_groups_weight_decay.
    """

    def group_of(name: str, parameter: nn.Parameter) -> Group:
        is_bias = name.endswith("bias")
        factor = params.lr.bias_factor if is_bias else 1.0
        decays = params.decay_norms_and_biases or not (is_bias or parameter.dim() <= 1)
        if not name.startswith(BACKBONE):
            return Group("fc_lr", factor, decays)
        depth = backbone.stages_above(name.removeprefix(BACKBONE))
        return Group("base_lr", factor * params.lr.layer_decay**depth, decays)

    return group_of


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], group_of: GroupOf, params: Params
) -> list[dict[str, Any]]:
    """The groups of an optimizer, in the order of their first parameters; those without gradient are left out.

    Each group carries its `name`, its `lr_factor` and its `base_lr`, which a schedule multiplies.
    """
    members: dict[Group, list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            members.setdefault(group_of(name, parameter), []).append(parameter)
    groups = []
    for group, parameters in members.items():
        lr = getattr(params.lr, group.name) * group.lr_factor
        decay = params.weight_decay if group.decays else 0.0
        rates = {"lr": lr, "base_lr": lr, "lr_factor": group.lr_factor, "weight_decay": decay}
        groups.append({"params": parameters, "name": group.name, **rates})
    return groups


def describe_groups(groups: Sequence[Mapping[str, Any]]) -> str:
    """The groups of an optimizer, a line each: learning rate, weight decay, number of parameters."""
    return "\n".join(
        f"  {group['name']} x {group['lr_factor']:.3g}{'' if group['weight_decay'] else ' without weight decay'}: "
        f"{sum(parameter.numel() for parameter in group['params'])}"
        for group in groups
    )


def named_parameters(network: nn.Module, criterion: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter of network and losses, by a name that says of which it is."""
    yield from network.named_parameters(prefix="network")
    yield from criterion.named_parameters(prefix="criterion")


def build_optimizer(params: Params, network: ReidNetwork, criterion: nn.Module) -> Optimizer:
    """The optimizer over all trained parameters of network and losses.

    All parameters are updated in one pass over memory, except by rmsprop, of which torch has no fused version.
    """
    groups = parameter_groups(named_parameters(network, criterion), group_rule(params, network.backbone), params)
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
    """The current rates by name, without the constant factors of groups; a generator's groups have none."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return {group["name"]: group["lr"] / group.get("lr_factor", 1.0) for group in groups}


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
    """Training mode; frozen layers stay in evaluation mode so that their averages do not drift.

    Args:
        network: whose backbone may be frozen.
        fine_tune: whether all but the classifiers is frozen.
    """
    network.train(not fine_tune)
    if not any(parameter.requires_grad for parameter in network.backbone.parameters()):
        network.backbone.eval()
    for head in network.heads():
        # The dropout before a classifier is part of how that is trained.
        head.feature_dropout.train()
        head.classifier.train()
