"""What a step is counted to need, and how that becomes a least time."""

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed_ceiling import Ceiling, CeilingMeter, Work, WorkCounter, floor_of

FLOAT = 4  # bytes


def test_operations_and_bytes_of_a_layer_forwards_backwards_and_updated() -> None:
    layer = nn.Linear(5, 7, bias=False)
    images = torch.randn(3, 5)
    optimizer = SGD(layer.parameters(), lr=0.1, fused=True)
    with WorkCounter() as counter:
        output = layer(images)
    # (3, 5) @ (5, 7) by 15 + 35 numbers read and 21 written; the transposed weight is a view.
    assert counter.work == [Work("float32", 2 * 3 * 5 * 7, (15 + 35 + 21) * FLOAT)]
    with WorkCounter() as counter:
        output.backward(torch.ones_like(output))
    # The images need no gradient: one product of (7, 3) @ (3, 5).
    assert sum(work.operations for work in counter.work) == 2 * 7 * 3 * 5
    with WorkCounter() as counter:
        optimizer.step()
    # Weights and gradients read, weights written. What fused SGD is told of gradients and momentum it does not have or
    # change is counted too, by what its signature says.
    (update,) = (work for work in counter.work if work.bytes > 35 * FLOAT)
    assert update.operations == 0
    assert update.bytes >= 3 * 35 * FLOAT


def test_a_convolution_is_counted_as_by_its_definition() -> None:
    convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
    images = torch.randn(2, 3, 8, 6)
    with WorkCounter() as counter:
        convolution(images)
    # Every one of the 2 x 8 x 4 x 3 outputs is a sum of 3 x 3 x 3 products.
    assert counter.work == [Work("float32", 2 * (2 * 8 * 4 * 3) * 27, (2 * 3 * 8 * 6 + 8 * 27 + 2 * 8 * 4 * 3) * FLOAT)]


def test_a_whole_step_has_the_operations_that_torch_counts() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))

    def step() -> None:
        network(torch.randn(2, 3, 8, 8)).square().sum().backward()

    with WorkCounter() as counter:
        step()
    with FlopCounterMode(display=False) as reference:
        step()
    assert sum(work.operations for work in counter.work) == reference.get_total_flops() > 0


def test_what_moves_nothing_counts_nothing_and_an_expanded_tensor_only_what_it_holds() -> None:
    with WorkCounter() as counter:
        torch.empty(100).view(10, 10).t()
    assert counter.work == []
    with WorkCounter() as counter:
        torch.add(torch.zeros(1).expand(1000), torch.zeros(1000, dtype=torch.float64))
    assert counter.work[-1] == Work("float32", 0, (1 + 1000 * 2 + 1000 * 2) * FLOAT)


def test_the_floor_takes_the_longer_of_arithmetic_and_bytes_of_each_operation() -> None:
    ceiling = Ceiling({"float32": 10.0, "bfloat16": 100.0}, bytes=4.0, measured={})
    work = [Work("float32", 50, 4), Work("bfloat16", 200, 12), Work("", 0, 2), Work("int8", 0, 4)]
    floor = floor_of(work, ceiling)
    # 5 s of arithmetic against 1 s of memory, 2 against 3, then bytes alone.
    assert floor.arithmetic_seconds == 5
    assert floor.memory_seconds == 3 + 0.5 + 1
    assert floor.seconds == 9.5
    assert (floor.operations, floor.bytes) == (250, 22)


def test_ceilings_are_measured_in_each_format() -> None:
    ceiling = CeilingMeter("cpu").measure((torch.float32, torch.bfloat16), quick=True)
    assert set(ceiling.operations) == {"float32", "bfloat16"}
    for name, rate in ceiling.operations.items():
        assert rate == max(ceiling.measured[f"{name} product"], ceiling.measured[f"{name} convolution"]) > 0
    assert ceiling.bytes == ceiling.measured["copy"] == pytest.approx(ceiling.measured["copy"])
