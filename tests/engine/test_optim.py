import pytest
import torch
from torch import nn

from config.params import LearningRate, Params
from engine.optim import (
    Group,
    build_optimizer,
    fill_momentum,
    freeze_all_but_classifiers,
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


CLASSIFIERS = {f"branches.{branch}.classifier.weight" for branch in ("parts", "global")}


def rates_by_name(optimizer: torch.optim.Optimizer, network: ReidNetwork) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter."""
    groups = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    return {name: groups[id(parameter)] for name, parameter in network.named_parameters()}


def test_biases_have_a_multiple_of_the_rate_and_norms_no_weight_decay(network: ReidNetwork) -> None:
    lr = LearningRate(base_lr=0.01, fc_lr=0.2, bias_factor=2)
    params = Params(lr=lr, weight_decay=0.1, decay_norms_and_biases=False)
    optimizer = build_optimizer(params, network, Centres())
    found = rates_by_name(optimizer, network)
    for path, module in network.named_modules():
        rate = 0.01 if path.startswith("backbone.") else 0.2
        is_norm = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        for name, _ in module.named_parameters(path, recurse=False):
            is_bias = name.endswith("bias")
            expected = rate * (2 if is_bias else 1), 0.0 if is_norm or is_bias else 0.1
            assert found.pop(name) == pytest.approx(expected), name
    assert found == {}
    for factor in (0.1, 1.0):
        set_learning_rates(optimizer, factor)
        assert learning_rates(optimizer) == pytest.approx({"base_lr": 0.01 * factor, "fc_lr": 0.2 * factor})


def test_the_rate_falls_from_each_stage_of_the_backbone_to_the_one_before(network: ReidNetwork) -> None:
    params = Params(lr=LearningRate(base_lr=0.01, fc_lr=0.2, layer_decay=0.5))
    found = rates_by_name(build_optimizer(params, network, nn.Identity()), network)
    stages = {"conv1": 4, "bn1": 4, "layer1": 3, "layer2": 2, "layer3": 1, "layer4": 0}
    for name, (rate, _) in found.items():
        expected = 0.01 * 0.5 ** stages[name.split(".")[1]] if name.startswith("backbone.") else 0.2
        assert rate == pytest.approx(expected), name


def test_a_step_of_every_group_is_one_of_its_own_rate(network: ReidNetwork) -> None:
    params = Params(lr=LearningRate(base_lr=0.01, fc_lr=0.2, layer_decay=0.5, bias_factor=2), momentum=0)
    optimizer = build_optimizer(params.model_copy(update={"weight_decay": 0.0}), network, nn.Identity())
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rates(optimizer, 0.5)
    optimizer.step()
    rates = {"backbone.conv1.weight": 0.01 / 16, "backbone.bn1.bias": 0.02 / 16, "backbone.layer4.0.bn1.bias": 0.02}
    for name, rate in (rates | dict.fromkeys(CLASSIFIERS, 0.2)).items():
        torch.testing.assert_close(network.get_parameter(name), before[name] - 0.5 * rate)


def test_a_rule_of_ones_own_forms_groups(network: ReidNetwork) -> None:
    def group_of(name: str, _: nn.Parameter) -> Group:
        return Group("fc_lr", 4.0, decays=False) if name in CLASSIFIERS else Group("base_lr", 1.0, decays=True)

    params = Params(lr=LearningRate(base_lr=0.01, fc_lr=0.2), weight_decay=0.1)
    groups = parameter_groups(network.named_parameters(), group_of, params)
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("base_lr", 0.01, 0.1),
        ("fc_lr", 0.8, 0.0),
    ]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


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
    assert changed == CLASSIFIERS


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
