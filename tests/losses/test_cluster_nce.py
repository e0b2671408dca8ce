import math

import pytest
import torch
from torch import Tensor

from losses.cluster_nce import ClusterNCE, MemoryUpdate
from losses.loss import Losses, LossInputs
from models.outputs import BranchOutput, ClassScores
from tests.processes import run_in_processes
from utils.distributed import this_process

CAPACITY, DIM, K = 6, 5, 3
LABELS = torch.tensor([2, 2, 2, 0, 0, 0])
"""Two of four clusters, K images each."""
TEMPERATURE, MOMENTUM, WEIGHT = 0.3, 0.2, 0.5


def draw(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(update: MemoryUpdate = "each") -> ClusterNCE:
    loss = ClusterNCE(WEIGHT, TEMPERATURE, MOMENTUM, update, CAPACITY, DIM, K).double()
    loss.begin_epoch(torch.nn.functional.normalize(draw(4, 9), dim=1))
    return loss


def look(loss: ClusterNCE, embeddings: Tensor, labels: Tensor = LABELS) -> Losses:
    """What it says of a network with two branches, of 2 and of 3 numbers."""
    scores = ClassScores(embeddings.new_zeros(1, len(embeddings), 0), None)
    parts = (embeddings[None, :, :2], embeddings[None, :, 2:])
    output = {name: BranchOutput(-part, part, scores) for name, part in zip("ab", parts, strict=True)}
    return loss(LossInputs(output, labels, torch.tensor(0), None, None))


def unit(row: list[float]) -> list[float]:
    return [value / math.hypot(*row) for value in row]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("update", ["each", "hard"])
def test_equals_the_definition_step_after_step(update: MemoryUpdate) -> None:
    loss = make(update)
    memory = loss.memory[:4].tolist()
    for step in range(3):
        embeddings = draw(6, step)
        rows, labels = [unit(row) for row in embeddings.tolist()], LABELS.tolist()
        value, metrics = look(loss, embeddings)
        total, hits = 0.0, 0
        for row, label in zip(rows, labels, strict=True):
            cosines = [cosine(row, center) for center in memory]
            total -= math.log(math.exp(cosines[label] / TEMPERATURE) / sum(math.exp(c / TEMPERATURE) for c in cosines))
            hits += cosines[label] == max(cosines)
        assert value["cluster_nce"].item() == pytest.approx(WEIGHT * total / 6)
        assert metrics["accuracy"].item() == pytest.approx(hits / 6)
        loss.remember()
        for label in {*labels}:
            own = [row for row, other in zip(rows, labels, strict=True) if other == label]
            center = memory[label]
            for row in own if update == "each" else [min(own, key=lambda row, center=center: cosine(row, center))]:
                center = unit([MOMENTUM * c + (1 - MOMENTUM) * x for c, x in zip(center, row, strict=True)])
            memory[label] = center
        torch.testing.assert_close(loss.memory[:4], torch.tensor(memory, dtype=torch.float64))
    assert not loss.memory[4:].any()


def test_the_gradient_is_that_of_the_values() -> None:
    assert torch.autograd.gradcheck(lambda x: look(make(), x).losses["cluster_nce"], draw(6, 0).requires_grad_())


def test_another_epoch_begins_with_its_own_clusters() -> None:
    loss, centroids = make(), torch.nn.functional.normalize(draw(3, 1), dim=1)
    loss.begin_epoch(centroids)
    assert torch.equal(loss.memory[:3], centroids)
    assert not loss.memory[3:].any()
    fresh = ClusterNCE(WEIGHT, TEMPERATURE, MOMENTUM, "each", 3, DIM, K).double()
    fresh.begin_epoch(centroids)
    assert look(loss, draw(6, 2)).losses["cluster_nce"] == look(fresh, draw(6, 2)).losses["cluster_nce"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_is_computed_in_float32(dtype: torch.dtype) -> None:
    embeddings = (300 * draw(6, 0)).to(dtype)
    value, same = (look(make().float(), rows).losses["cluster_nce"] for rows in (embeddings, embeddings.float()))
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert torch.equal(value, same)


def test_compiled_code_serves_every_epoch() -> None:
    loss, plain = make("hard"), make("hard")
    compiled = torch.compile(look, backend="aot_eager_decomp_partition", fullgraph=True, dynamic=False)
    for step in range(3):
        gradients = []
        for module, call in ((loss, compiled), (plain, look)):
            module.begin_epoch(torch.nn.functional.normalize(draw(3 + step, 7), dim=1))
            embeddings = draw(6, step).requires_grad_()
            with torch._dynamo.config.patch(error_on_recompile=step > 0):
                call(module, embeddings).losses["cluster_nce"].backward()
            module.remember()
            gradients.append(embeddings.grad)
        torch.testing.assert_close(*gradients)
        torch.testing.assert_close(loss.memory, plain.memory)


def look_at_own_part() -> tuple[float, Tensor, Tensor]:
    own, loss, embeddings = this_process().share(6), make(), draw(6, 0).requires_grad_()
    value = look(loss, embeddings[own], LABELS[own]).losses["cluster_nce"]
    value.backward()
    loss.remember()
    assert embeddings.grad is not None
    return value.item(), embeddings.grad[own], loss.memory


def test_several_processes_have_the_memory_of_one() -> None:
    loss, embeddings = make(), draw(6, 0).requires_grad_()
    value = look(loss, embeddings).losses["cluster_nce"]
    value.backward()
    loss.remember()
    results = run_in_processes(look_at_own_part, 2)
    assert sum(part for part, _, _ in results) / 2 == pytest.approx(value.item())
    torch.testing.assert_close(torch.cat([gradient for _, gradient, _ in results]) / 2, embeddings.grad)
    for _, _, memory in results:
        torch.testing.assert_close(memory, loss.memory)
