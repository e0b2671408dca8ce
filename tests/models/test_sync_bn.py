"""Batch normalisation over the images of all processes against PyTorch's own over the whole batch in one."""

import warnings
from typing import Any, NamedTuple

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.backbones.resnet import IBN, NonLocal
from models.sync_bn import SyncBatchNorm, average_buffers, synchronise_batch_norm
from tests.processes import run_in_processes
from utils.distributed import this_process
from utils.errors import ParamsError

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
        shape = (3, 9, 4) if kind is nn.BatchNorm1d else (3, 9, 4, 3, 2)
        batches, slopes = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        # Far from zero, where a difference of squares has lost the variance.
        return Case(bn, (batches + 100).to(dtype), slopes.to(dtype))

    return {
        "vectors": draw(nn.BatchNorm1d),
        "maps": draw(nn.BatchNorm2d),
        "single precision": draw(nn.BatchNorm2d, torch.float32),
        "half precision": draw(nn.BatchNorm2d, torch.bfloat16),
        "mean of all batches": draw(nn.BatchNorm1d, momentum=None),
        "with an activation": draw(BatchNormAct2d, act_layer=nn.SiLU),  # pyright: ignore[reportArgumentType]
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
    seen = {}
    for name, case in make_cases().items():
        network = nn.Sequential(nn.Sequential(case.bn))
        before = network.state_dict(keep_vars=True)
        synchronise_batch_norm(network)
        after = network.state_dict(keep_vars=True)
        assert isinstance(case.bn, SyncBatchNorm)
        assert before.keys() == after.keys()
        assert all(after[key] is value for key, value in before.items())
        seen[name] = watch(network.get_submodule("0.0"), case.batches[:, own], case.slopes[:, own])
    return seen


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


class Trained(NamedTuple):
    outputs: list[Tensor]
    gradients: list[Tensor]
    """Of each parameter, of the sum of the losses of two steps."""
    buffers: list[Tensor]
    num_graphs: int


class Network(nn.Module):
    """Normalisations of all kinds; torch 2.11 does not compile a bare `nn.Sequential` as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), IBN(4), NonLocal(4, 2), BatchNormAct2d(4),
            nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5, momentum=None), nn.Flatten(), nn.Linear(20, 6), nn.BatchNorm1d(6),
        )  # fmt: skip
        nn.init.ones_(self.layers.get_parameter("4.bn.weight"))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def train_network(own: slice, *, compiled: bool) -> Trained:
    """Two steps of a network on some of the images of each batch."""
    torch.manual_seed(0)
    network = Network().double()
    synchronise_batch_norm(network)
    graphs: list[Any] = []

    def keep_graph(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    module: nn.Module = network
    if compiled:
        network.compile(backend=keep_graph, fullgraph=True, dynamic=False)
        module = DistributedDataParallel(network, gradient_as_bucket_view=True)
    outputs = []
    for _ in range(2):
        images, slope = torch.randn(8, 3, 6, 6, dtype=torch.float64), torch.randn(8, 6, dtype=torch.float64)
        outputs.append(module(images[own]))
        (outputs[-1] * slope[own]).sum().backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return Trained([output.detach() for output in outputs], gradients, list(network.buffers()), len(graphs))


def train_own_part() -> Trained:
    # Those of torch 2.11 about what its own tracing does.
    warnings.simplefilter("ignore")
    return train_network(this_process().share(8), compiled=True)


def test_a_compiled_network_on_several_devices_is_one_graph_and_that_of_the_whole_batch() -> None:
    results = run_in_processes(train_own_part, 2)
    expected = train_network(slice(None), compiled=False)
    assert [result.num_graphs for result in results] == [1, 1]
    for step, output in enumerate(expected.outputs):
        torch.testing.assert_close(torch.cat([result.outputs[step] for result in results]), output)
    for result in results:
        # Averaged over the processes.
        torch.testing.assert_close([2 * gradient for gradient in result.gradients], expected.gradients)
        torch.testing.assert_close(result.buffers, expected.buffers)


def average_own_buffers() -> tuple[dict[str, Tensor], dict[str, Tensor], bool]:
    """The buffers before and after averaging, and whether a second time changes a bit."""
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
    synchronise_batch_norm(network)
    assert type(network[0]) is nn.BatchNorm1d
    average_buffers(network)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


class Scaled(nn.BatchNorm2d):
    """Another batch normalisation that does more than normalise."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def synchronise_another() -> str:
    with pytest.raises(ParamsError) as caught:
        synchronise_batch_norm(nn.Sequential(Scaled(3)))
    return str(caught.value)


def test_a_normalisation_that_does_something_else_is_refused() -> None:
    assert set(run_in_processes(synchronise_another, 2)) == {
        "sync_bn: Scaled cannot be synchronised; set sync_bn to false"
    }
