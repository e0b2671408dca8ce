"""The fake GPU refuses what a real one refuses, and knows where a program waits for it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.gpu_rehearsal.fake_gpu import FakeGpu, FakeGpuTensor, HostWaitError

pytestmark = pytest.mark.usefixtures("gpu")


def on_gpu(*shape: int) -> Tensor:
    return torch.rand(shape, device="cuda")


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: on_gpu(3) + torch.arange(3),
        lambda: on_gpu(3, 3) @ torch.ones(3, 3),
        lambda: torch.cat([on_gpu(3), torch.ones(3)]),
        lambda: torch.stack([on_gpu(), torch.zeros(())]),
        lambda: torch.where(torch.ones(3, dtype=torch.bool), on_gpu(3), 0.0),
        lambda: torch.ones(3).add_(on_gpu(3)),
        lambda: torch.ones(3)[torch.zeros(2, dtype=torch.int64, device="cuda")],
        lambda: F.cross_entropy(on_gpu(2, 3), torch.zeros(2, dtype=torch.int64)),
        lambda: torch.rand(3, generator=torch.Generator(), device="cuda"),
        lambda: torch.rand(3, generator=torch.Generator("cuda")),
        lambda: on_gpu(3).normal_(generator=torch.Generator()),
    ],
)  # fmt: skip
def test_several_devices_are_refused(mixed: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="expected"):
        mixed()


def test_operations_without_a_deterministic_algorithm_are_refused() -> None:
    images = on_gpu(1, 2, 4, 4).requires_grad_()
    pooled = F.adaptive_avg_pool2d(images, (2, 1)).sum()
    pooled.backward(retain_graph=True)
    torch.use_deterministic_algorithms(True)
    with pytest.raises(RuntimeError, match="no deterministic implementation"):
        pooled.backward()


def test_numpy_does_not_see_its_memory() -> None:
    with pytest.raises(RuntimeError):
        on_gpu(3).numpy()


@pytest.mark.parametrize(
    "waiting",
    [
        lambda: on_gpu().item(),
        lambda: on_gpu(3).tolist(),
        lambda: bool(on_gpu() > 0),
        lambda: (on_gpu(3) > 0).any() or None,
        lambda: on_gpu(3).cpu(),
        lambda: torch.empty(3).copy_(on_gpu(3)),
        lambda: torch.ones(3).cuda(),
        lambda: torch.ones(3).to("cuda", non_blocking=True),
        lambda: torch.ones(3).pin_memory().to("cuda"),
        lambda: torch.tensor([1.0, 2.0], device="cuda"),
        lambda: on_gpu(3).copy_(torch.ones(3)),
        lambda: torch._foreach_copy_([on_gpu(3)], [torch.ones(3)]),  # pyright: ignore[reportPrivateImportUsage]
        lambda: on_gpu(3).nonzero(),
        lambda: on_gpu(3)[on_gpu(3) > 0],
        lambda: on_gpu(3)[torch.tensor([0, 1])],
        lambda: on_gpu(3).masked_select(on_gpu(3) > 0),
        lambda: on_gpu(3).unique(),
        lambda: on_gpu(3).repeat_interleave(torch.ones(3, dtype=torch.int64, device="cuda")),
        lambda: on_gpu(3).equal(on_gpu(3)),
        lambda: torch.cuda.synchronize(),
    ],
)  # fmt: skip
def test_waiting_is_noticed(waiting: Callable[[], object], gpu: FakeGpu) -> None:
    waiting()
    with gpu.no_waits(), pytest.raises(HostWaitError):
        waiting()


def test_what_needs_no_waiting_gives_the_results_of_the_cpu(gpu: FakeGpu) -> None:
    generator, same = torch.Generator("cuda").manual_seed(1), torch.Generator().manual_seed(1)
    with gpu.no_waits():
        weight = torch.ones(4, 3).pin_memory().to("cuda", non_blocking=True).requires_grad_()
        values = torch.randn(3, 5, generator=generator, device="cuda")
        result = torch.where(values > 0, values, 0.0).masked_fill(values > 1, 2.0) * torch.tensor(3.0)
        (weight @ result)[:, torch.arange(0, 5, 2, device="cuda")].square().sum().backward()
        gradient = weight.grad
    assert isinstance(gradient, FakeGpuTensor)
    assert gradient.device == gpu.device
    weight, values = torch.ones(4, 3, requires_grad=True), torch.randn(3, 5, generator=same)
    result = torch.where(values > 0, values, 0.0).masked_fill(values > 1, 2.0) * 3
    (weight @ result)[:, ::2].square().sum().backward()
    assert torch.equal(gradient.cpu(), weight.grad if weight.grad is not None else torch.empty(0))
