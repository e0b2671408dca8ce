"""The optimizer: two groups of parameters, each with its own learning rate."""

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from config.params import Params
from models.network import ReidNetwork

BASE_LR = "base_lr"
FC_LR = "fc_lr"


def build_optimizer(params: Params, network: ReidNetwork, criterion: nn.Module) -> Optimizer:
    """The optimizer over all trained parameters: the backbone's at `base_lr`; heads' and losses' at `fc_lr`.

    All parameters are updated in one pass over memory, but for rmsprop, of which torch has no such version.
    """
    backbone = [parameter for parameter in network.backbone.parameters() if parameter.requires_grad]
    heads = [parameter for parameter in network.branches.parameters() if parameter.requires_grad]
    rest = heads + [parameter for parameter in criterion.parameters() if parameter.requires_grad]
    groups = [
        {"params": backbone, "lr": params.lr.base_lr, "name": BASE_LR},
        {"params": rest, "lr": params.lr.fc_lr, "name": FC_LR},
    ]
    groups = [group for group in groups if group["params"]]
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


def fill_momentum(optimizer: Optimizer) -> None:
    """Give SGD a momentum of zero where a parameter has a gradient and no momentum yet; this changes no step.

    Left to itself the fused version takes memory as it finds it, and leaves it so if its first step is not applied.
    """
    if not isinstance(optimizer, SGD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if parameter.grad is not None and "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.grad)


def set_learning_rates(optimizer: Optimizer, params: Params, factor: float) -> dict[str, float]:
    """Set each group's rate to its full rate times `factor`; returns the rates by name."""
    full = {BASE_LR: params.lr.base_lr, FC_LR: params.lr.fc_lr}
    for group in optimizer.param_groups:
        group["lr"] = full[group["name"]] * factor
    return learning_rates(optimizer)


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Each group's rate as it is set now, by name."""
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


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
