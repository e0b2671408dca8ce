"""Batch normalisation over the images of all processes against PyTorch's own over the whole batch in one."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.network import build_network
from models.options import ModelParams
from models.sync_bn import average_buffers, synchronised
from tests.losses.conftest import make_criterion
from tests.processes import run_in_processes
from utils.distributed import this_process

CPU = torch.device("cpu")
OWN = (slice(0, 5), slice(5, 6), slice(6, 9))
"""Each process's images of nine; one has a single image."""


class Case(NamedTuple):
    """A normalisation and what goes in."""

    bn: nn.BatchNorm1d | nn.BatchNorm2d
    batches: Tensor
    """(steps, B, C, ...)."""
    slopes: Tensor
    """Of the loss, of the same shape."""


class Seen(NamedTuple):
    """What a normalisation did."""

    outputs: Tensor
    gradients: Tensor
    """Of the input; both (steps, B, C, ...)."""
    weights: dict[str, Tensor]
    """Gradients of weight and bias, summed over the steps."""
    buffers: dict[str, Tensor]
    evaluated: Tensor
    """The last batch once training is over."""
    channels_last: bool


def make_cases() -> dict[str, Case]:
    generator = torch.Generator().manual_seed(0)

    def draw(
        kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d], dtype: torch.dtype = torch.float64, **settings: Any
    ) -> Case:
        bn = kind(4, dtype=torch.promote_types(dtype, torch.float32), **settings)
        for parameter in bn.parameters():
            nn.init.uniform_(parameter, 0.5, 2.0, generator=generator)
        shape = (3, 9, 4, 3, 2) if kind is nn.BatchNorm2d else (3, 9, 4)
        batches, slopes = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        # Far from zero, where a difference of squares has lost the variance.
        return Case(bn, (batches + 100).to(dtype), slopes.to(dtype))

    return {
        "vectors": draw(nn.BatchNorm1d),
        "maps": draw(nn.BatchNorm2d),
        "single precision": draw(nn.BatchNorm2d, torch.float32),
        "half precision": draw(nn.BatchNorm2d, torch.bfloat16),
        "mean of all batches": draw(nn.BatchNorm1d, momentum=None),
        "no weights": draw(nn.BatchNorm2d, affine=False),
        "no running statistics": draw(nn.BatchNorm1d, track_running_stats=False),
    }


def watch(bn: nn.Module, batches: Tensor, slopes: Tensor) -> Seen:
    """Train on each batch with the loss (slope * output).sum(), then evaluate."""
    outputs, gradients, channels_last = [], [], True
    for batch, slope in zip(batches, slopes, strict=True):
        values = batch.clone()
        if values.dim() == 4:
            values = values.to(memory_format=torch.channels_last)
        output = bn(values.requires_grad_())
        (output * slope).sum().backward()
        assert values.grad is not None
        if values.dim() == 4 and len(values) > 1:
            channels_last &= output.is_contiguous(memory_format=torch.channels_last)
            channels_last &= values.grad.is_contiguous(memory_format=torch.channels_last)
        outputs.append(output.detach())
        gradients.append(values.grad)
    weights = {name: parameter.grad for name, parameter in bn.named_parameters() if parameter.grad is not None}
    # Without running statistics a process would evaluate its own images alone.
    evaluated = bn.eval()(batches[-1]).detach() if dict(bn.named_buffers()) else torch.zeros(0)
    return Seen(
        torch.stack(outputs), torch.stack(gradients), weights, dict(bn.named_buffers()), evaluated, channels_last
    )


def normalise_own_part() -> dict[str, Seen]:
    own = OWN[this_process().rank]
    return {
        name: watch(synchronised(case.bn, CPU), case.batches[:, own], case.slopes[:, own])
        for name, case in make_cases().items()
    }


def test_it_is_the_normalisation_of_the_whole_batch() -> None:
    results = run_in_processes(normalise_own_part, len(OWN))
    for name, case in make_cases().items():
        dtype = case.batches.dtype
        close = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 5e-2}[dtype]
        # The reference has the numbers that went in, and computes in double precision.
        expected = watch(case.bn.double(), case.batches.double(), case.slopes.double())
        seen = [result[name] for result in results]

        def same(actual: Tensor, expected: Tensor, close: float = close, name: str = name) -> None:
            torch.testing.assert_close(
                actual.double(), expected.double(), rtol=close, atol=close, msg=lambda m: f"{name}: {m}"
            )

        same(torch.cat([each.outputs for each in seen], dim=1), expected.outputs)
        same(torch.cat([each.gradients for each in seen], dim=1), expected.gradients)
        same(torch.cat([each.evaluated for each in seen]), expected.evaluated)
        assert {each.outputs.dtype for each in seen} == {dtype}
        assert all(each.channels_last for each in seen)
        for weight, gradient in expected.weights.items():
            same(torch.stack([each.weights[weight] for each in seen]).sum(0), gradient)
        for each in seen:
            assert each.weights.keys() == expected.weights.keys()
            assert each.buffers.keys() == expected.buffers.keys()
            for buffer, value in expected.buffers.items():
                same(each.buffers[buffer], value)
                assert torch.equal(each.buffers[buffer], seen[0].buffers[buffer])


PARAMS = ModelParams(
    model="resnet_18", last_conv_stride=2, feature_dim=8, pcb_n_parts=2, feature_global_dim=4, bn_bias=False
)
LABELS = torch.arange(4).repeat_interleave(2)
STEPS = 2


class Step(nn.Module):
    """Network and losses in double precision, as one module."""

    def __init__(self, *, gather: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = build_network(PARAMS, num_classes=4).double()
        for classifier in self.network.classifiers():
            nn.init.normal_(classifier.weight)  # pyright: ignore[reportArgumentType]
        self.criterion = make_criterion(
            tri_loss_margin=1.0,
            tri_loss_on=("global", "parts", "concat"),
            random_drop_branches=1,
            gather_embeddings=gather,
        )

    def forward(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        return torch.stack([*self.criterion(self.network(images), labels, step).losses.values()]).sum()


class Trained(NamedTuple):
    """Two steps of a network."""

    losses: list[float]
    gradients: dict[str, Tensor]
    """Of the first step."""
    state: dict[str, Tensor]
    """After the last."""


def train(module: nn.Module, step_module: Step, where: slice) -> Trained:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(step_module.parameters(), lr=0.01)
    losses, gradients = [], {}
    for step in range(STEPS):
        images = torch.randn(len(LABELS), 3, 64, 32, generator=generator, dtype=torch.float64)
        loss = module(images[where], LABELS[where], step)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {
                name: weight.grad.clone() for name, weight in step_module.named_parameters() if weight.grad is not None
            }
        optimizer.step()
        losses.append(loss.item())
    return Trained(losses, gradients, step_module.state_dict())


def train_on_own_part() -> Trained:
    step = Step(gather=True)
    names = list(step.state_dict())
    weights = list(step.parameters())
    synchronised(step.network, CPU)
    assert list(step.state_dict()) == names
    assert all(now is before for now, before in zip(step.parameters(), weights, strict=True))
    return train(DistributedDataParallel(step), step, this_process().share(len(LABELS)))


def test_a_network_trains_in_several_processes_as_in_one_with_the_whole_batch() -> None:
    results = run_in_processes(train_on_own_part, 2)
    step = Step(gather=False)
    expected = train(step, step, slice(None))
    for number, loss in enumerate(expected.losses):
        assert sum(result.losses[number] for result in results) / 2 == pytest.approx(loss, rel=1e-9)
    for result in results:
        assert result.gradients.keys() == expected.gradients.keys()
        for name, gradient in expected.gradients.items():
            torch.testing.assert_close(result.gradients[name], gradient, rtol=1e-9, atol=1e-9)
        for name, value in expected.state.items():
            torch.testing.assert_close(result.state[name], value, rtol=1e-9, atol=1e-9)
            assert torch.equal(result.state[name], results[0].state[name])


def average_own_buffers() -> tuple[dict[str, Tensor], dict[str, Tensor], bool]:
    """Buffers before and after, and whether a second time changes a bit."""
    network = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm2d(2).double())
    generator = torch.Generator().manual_seed(this_process().rank)
    for buffer in network.buffers():
        buffer.copy_(torch.rand(buffer.shape, generator=generator) if buffer.is_floating_point() else torch.tensor(7))
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    average_buffers(network)
    once = {name: buffer.clone() for name, buffer in network.named_buffers()}
    average_buffers(network)
    return before, once, all(torch.equal(buffer, once[name]) for name, buffer in network.named_buffers())


def test_buffers_become_their_mean_and_equal_in_all_processes() -> None:
    results = run_in_processes(average_own_buffers, 3)
    for name, value in results[0][1].items():
        mean = torch.stack([before[name].double() for before, _, _ in results]).mean(0)
        torch.testing.assert_close(value.double(), mean, rtol=1e-7, atol=0)
        assert all(torch.equal(after[name], value) for _, after, _ in results)
    assert all(unchanged for _, _, unchanged in results)
    assert results[0][0]["0.running_mean"].tolist() != results[1][0]["0.running_mean"].tolist()


def test_one_process_keeps_its_normalisation_and_its_buffers() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3))
    network(torch.randn(4, 3))
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    assert synchronised(network, CPU) is network
    assert type(network[0]) is nn.BatchNorm1d
    average_buffers(network)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
