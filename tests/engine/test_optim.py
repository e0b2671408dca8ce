import pytest
import torch
from torch import nn

from config.params import LearningRate, Params
from engine.optim import (
    GroupRule,
    build_optimizer,
    fill_momentum,
    freeze_all_but_classifiers,
    group_rules,
    learning_rates,
    parameter_groups,
    set_learning_rates,
    set_train_mode,
)
from models.network import ReidNetwork, build_network
from models.options import ModelParams


@pytest.fixture
def network() -> ReidNetwork:
    return build_network(ModelParams(model="resnet_18", feature_dim=8, pcb_n_parts=2, feature_global_dim=4), 3)


class Centres(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(3, 4))


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "amsgrad", "rmsprop", "adamw"])
def test_two_groups_hold_every_parameter_of_model_and_losses_once(network: ReidNetwork, name: str) -> None:
    params = Params.model_validate({"optimizer": name, "lr": {"base_lr": 0.01, "fc_lr": 0.2}, "weight_decay": 0.1})
    losses = Centres()
    optimizer = build_optimizer(params, network, losses)
    base, rest = optimizer.param_groups
    assert {id(p) for p in base["params"]} == {id(p) for p in network.backbone.parameters()}
    assert {id(p) for p in rest["params"]} == {id(p) for p in [*network.branches.parameters(), losses.centres]}
    assert (base["lr"], rest["lr"]) == (0.01, 0.2)
    assert base["weight_decay"] == 0.1
    assert base.get("nesterov", False) == (name == "nesterov")
    assert base.get("amsgrad", False) == (name == "amsgrad")


def test_both_rates_are_set_from_their_full_value(network: ReidNetwork) -> None:
    params = Params(lr=LearningRate(base_lr=0.01, fc_lr=0.2))
    optimizer = build_optimizer(params, network, nn.Identity())
    for factor in (0.1, 0.5, 1.0):
        set_learning_rates(optimizer, factor)
        assert learning_rates(optimizer) == pytest.approx({"base_lr": 0.01 * factor, "fc_lr": 0.2 * factor})
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.2]


def test_a_rule_of_ones_own_forms_a_group(network: ReidNetwork) -> None:
    """Rules are tried in order; the first that matches a parameter has it, and empty groups are left out."""
    bias = GroupRule("bias_lr", 0.4, lambda name: name.endswith(".bias"))
    rules = [bias, *group_rules(Params()), GroupRule("unused", 1.0, lambda name: True)]
    groups = parameter_groups(network.named_parameters(prefix="network"), rules)
    assert [group["name"] for group in groups] == ["bias_lr", "base_lr", "fc_lr"]
    biases = [parameter for name, parameter in network.named_parameters() if name.endswith(".bias")]
    assert [id(parameter) for parameter in groups[0]["params"]] == [id(parameter) for parameter in biases]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    optimizer = torch.optim.SGD(groups)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = biases[0].clone()
    set_learning_rates(optimizer, 0.5)
    optimizer.step()
    torch.testing.assert_close(biases[0], before - 0.2)


def test_fine_tuning_changes_the_classifiers_and_nothing_else(network: ReidNetwork) -> None:
    freeze_all_but_classifiers(network)
    optimizer = build_optimizer(Params(fine_tune=True, pretrain_snapshot="x"), network, nn.Identity())
    set_train_mode(network, fine_tune=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for branch in network(torch.randn(4, 3, 64, 32)).values():
        branch.scores.logits.square().sum().backward()
    optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    # Running averages are part of the state: frozen layers must not move them either.
    assert changed == {"branches.parts.classifier.weight", "branches.global.classifier.weight"}


def step_twice(name: str, *, filled: bool) -> list[torch.Tensor]:
    """Two steps of an optimizer as it is built, the second parameter without a gradient in the first of them."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(5, 3, generator=generator)) for _ in range(2)]
    optimizer = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=filled),
        "nesterov": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, fused=filled),
        "rmsprop": lambda: torch.optim.RMSprop(parameters, lr=0.1, momentum=0.9),
        "adam": lambda: torch.optim.Adam(parameters, lr=0.1),
    }[name]()
    if filled:
        fill_momentum(optimizer)
    for present in (1, 2):
        for parameter in parameters[:present]:
            parameter.grad = torch.randn(5, 3, generator=generator)
        optimizer.step()
    return [*parameters, *(value for entry in optimizer.state.values() for value in entry.values())]


@pytest.mark.parametrize("name", ["sgd", "nesterov", "rmsprop", "adam"])
def test_a_momentum_of_zero_changes_no_step_and_only_sgd_gets_one(name: str) -> None:
    for filled, plain in zip(step_twice(name, filled=True), step_twice(name, filled=False), strict=True):
        torch.testing.assert_close(filled, plain, rtol=1e-6, atol=1e-7)


def test_a_first_step_of_the_fused_version_that_is_not_applied_leaves_a_momentum_of_zero() -> None:
    parameter = nn.Parameter(torch.ones(1000))
    parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, fused=True)
    fill_momentum(optimizer)
    optimizer.found_inf = torch.tensor(1.0)  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()
    assert torch.equal(parameter, torch.ones(1000))
    assert torch.equal(optimizer.state[parameter]["momentum_buffer"], torch.zeros(1000))
