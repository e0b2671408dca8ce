"""The average of the weights, against the same written out."""

import pytest
import torch

from engine.average import WeightAverage
from models.network import build_network
from models.options import ModelParams

MODEL = ModelParams(model="resnet_18", feature_dim=8)


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_every_applied_step_is_taken_in(decay: float) -> None:
    torch.manual_seed(0)
    network = build_network(MODEL, 3)
    average = WeightAverage(network, decay)
    expected = {name: value.double() for name, value in network.state_dict().items()}
    updates = 0
    for is_applied in (True, True, False, True, False, True):
        for value in network.state_dict().values():
            value.copy_(torch.randn_like(value) if value.is_floating_point() else value + 1)
        average.update(torch.tensor(is_applied))
        if is_applied:
            keeps = min(decay, (1 + updates) / (10 + updates))
            updates += 1
            for name, value in network.state_dict().items():
                expected[name] = keeps * expected[name] + (1 - keeps) * value
    for name, value in average.network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 6  # it counts batches, not steps
        else:
            torch.testing.assert_close(value, expected[name].float(), rtol=1e-4, atol=1e-5)
    assert average.updates == updates


def test_the_average_is_no_part_of_the_training() -> None:
    network = build_network(MODEL, 3)
    average = WeightAverage(network, 0.9)
    network.train()
    assert not any(module.training for module in average.network.modules())
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
