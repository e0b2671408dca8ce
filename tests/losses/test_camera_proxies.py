import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from losses.camera_proxies import CameraProxies
from losses.cluster_nce import MemoryUpdate
from losses.loss import Losses, LossInputs
from models.outputs import BranchOutput, ClassScores
from tests.processes import run_in_processes
from utils.distributed import this_process

CAPACITY, DIM, K = 90, 5, 3
PAIRS = torch.tensor([(cluster, camera) for cluster in range(20) for camera in (1, 2, 5, 8) if cluster or camera == 2])
"""Cluster and camera of 77 proxies: more than 50 negatives for each image. Cluster 0 is seen by one camera only."""
LABELS = torch.tensor([2, 2, 2, 0, 0, 0, 7, 7, 7, 19, 19, 19])
"""Four of the clusters, K images each."""
CAMIDS = torch.tensor([1, 5, 1, 2, 2, 2, 8, 1, 2, 1, 1, 5])
TEMPERATURE, MOMENTUM, WEIGHT = 0.3, 0.2, 0.5


def draw(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(update: MemoryUpdate = "each", pairs: Tensor = PAIRS, capacity: int = CAPACITY) -> CameraProxies:
    loss = CameraProxies(WEIGHT, TEMPERATURE, MOMENTUM, update, capacity, DIM, K).double()
    loss.begin_epoch(F.normalize(draw(len(pairs), 9), dim=1), *pairs.unbind(1))
    return loss


def look(loss: CameraProxies, embeddings: Tensor, labels: Tensor = LABELS, camids: Tensor = CAMIDS) -> Losses:
    """What it says of a network with two branches, of 2 and of 3 numbers."""
    scores = ClassScores(embeddings.new_zeros(1, len(embeddings), 0), None)
    parts = (embeddings[None, :, :2], embeddings[None, :, 2:])
    output = {name: BranchOutput(-part, part, scores) for name, part in zip("ab", parts, strict=True)}
    return loss(LossInputs(output, labels, torch.tensor(0), None, None, camids))


def total(found: Losses) -> Tensor:
    return torch.stack(list(found.losses.values())).sum()


def unit(row: list[float]) -> list[float]:
    return [value / math.hypot(*row) for value in row]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


def cross_entropy(own: float, cosines: list[float]) -> float:
    return -math.log(math.exp(own / TEMPERATURE) / sum(math.exp(value / TEMPERATURE) for value in cosines))


def slow_losses(images: list[list[float]], memory: dict[tuple[int, int], list[float]]) -> tuple[float, float, float]:
    """Intra-camera and inter-camera loss and accuracy, from the proxies by cluster and camera."""
    intra, inter, hits = 0.0, 0.0, 0
    labels, camids = LABELS.tolist(), CAMIDS.tolist()
    for camera in {*camids}:
        own_images = [place for place in range(len(images)) if camids[place] == camera]
        for place in own_images:
            cosines = {key: cosine(images[place], proxy) for key, proxy in memory.items()}
            label = labels[place]
            own = cosines[label, camera]
            of_camera = [value for key, value in cosines.items() if key[1] == camera]
            hits += own == max(of_camera)
            intra += cross_entropy(own, of_camera) / len(own_images)
            positives = [value for key, value in cosines.items() if key[0] == label and key[1] != camera]
            negatives = sorted(value for key, value in cosines.items() if key[0] != label)[-50:]
            for value in positives:
                inter += cross_entropy(value, positives + negatives) / len(positives) / len(own_images)
    return intra, inter, hits / len(images)


@pytest.mark.parametrize("update", ["each", "hard"])
def test_equals_the_definition_step_after_step(update: MemoryUpdate) -> None:
    loss = make(update)
    keys = [(cluster, camera) for cluster, camera in PAIRS.tolist()]
    memory = dict(zip(keys, loss.memory[: len(keys)].tolist(), strict=True))
    for step in range(3):
        embeddings = draw(12, step)
        images = [unit(row) for row in embeddings.tolist()]
        losses, metrics = look(loss, embeddings)
        intra, inter, accuracy = slow_losses(images, memory)
        assert losses["intra_camera"].item() == pytest.approx(WEIGHT * intra)
        assert losses["inter_camera"].item() == pytest.approx(WEIGHT * 0.5 * inter)
        assert metrics["accuracy"].item() == pytest.approx(accuracy)
        loss.remember()
        of_proxy: dict[tuple[int, int], list[list[float]]] = {}
        for image, label, camera in zip(images, LABELS.tolist(), CAMIDS.tolist(), strict=True):
            of_proxy.setdefault((label, camera), []).append(image)
        for key, own in of_proxy.items():
            proxy = memory[key]
            for row in own if update == "each" else [min(own, key=lambda row, proxy=proxy: cosine(row, proxy))]:
                proxy = unit([MOMENTUM * c + (1 - MOMENTUM) * x for c, x in zip(proxy, row, strict=True)])
            memory[key] = proxy
        expected = torch.tensor([memory[key] for key in keys], dtype=torch.float64)
        torch.testing.assert_close(loss.memory[: len(keys)], expected)
    assert not loss.memory[len(keys) :].any()


def test_the_gradient_is_that_of_the_values() -> None:
    assert torch.autograd.gradcheck(lambda x: total(look(make(), x)), draw(12, 0).requires_grad_())


def test_clusters_of_one_camera_each_have_no_inter_camera_loss() -> None:
    embeddings = draw(6, 0).requires_grad_()
    found = look(make(pairs=torch.tensor([(0, 4), (1, 6)])), embeddings, LABELS.new_tensor([0, 0, 0, 1, 1, 1]),
                 CAMIDS.new_tensor([4, 4, 4, 6, 6, 6]))  # fmt: skip
    assert found.losses["inter_camera"] == found.losses["intra_camera"] == 0
    total(found).backward()
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


def test_another_epoch_begins_with_its_own_proxies() -> None:
    loss, pairs = make(), PAIRS[:60]
    proxies = F.normalize(draw(60, 1), dim=1)
    fresh = make(pairs=pairs, capacity=60)
    for module in (loss, fresh):
        module.begin_epoch(proxies, *pairs.unbind(1))
    labels = LABELS.clamp(max=9)
    assert not loss.memory[60:].any()
    for name, value in look(loss, draw(12, 2), labels).losses.items():
        torch.testing.assert_close(value, look(fresh, draw(12, 2), labels).losses[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_is_computed_in_float32(dtype: torch.dtype) -> None:
    embeddings = (300 * draw(12, 0)).to(dtype)
    value, same = (total(look(make().float(), rows)) for rows in (embeddings, embeddings.float()))
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert torch.equal(value, same)


@pytest.mark.parametrize("update", ["each", "hard"])
def test_compiled_code_serves_every_epoch(update: MemoryUpdate) -> None:
    loss, plain = make(update), make(update)
    compiled = torch.compile(look, backend="aot_eager_decomp_partition", fullgraph=True, dynamic=False)
    for step in range(3):
        gradients = []
        for module, call in ((loss, compiled), (plain, look)):
            pairs = PAIRS[: 75 + step]
            module.begin_epoch(F.normalize(draw(len(pairs), 7), dim=1), *pairs.unbind(1))
            embeddings = draw(12, step).requires_grad_()
            with torch._dynamo.config.patch(error_on_recompile=step > 0):
                total(call(module, embeddings)).backward()
            module.remember()
            gradients.append(embeddings.grad)
        torch.testing.assert_close(*gradients)
        torch.testing.assert_close(loss.memory, plain.memory)


def test_a_bad_step_of_two_batches_leaves_the_memory_as_it_was() -> None:
    loss = make()
    before = loss.memory.clone()
    for finite in (False, True):
        for seed in (0, 1):
            look(loss, draw(len(LABELS), seed))
            loss.remember()
        assert not torch.equal(loss.memory, before)
        loss.keep_if(torch.tensor(finite))
        assert torch.equal(loss.memory, before) is not finite


def look_at_own_part() -> tuple[float, Tensor, Tensor]:
    own, loss, embeddings = this_process().share(12), make(), draw(12, 0).requires_grad_()
    value = total(look(loss, embeddings[own], LABELS[own], CAMIDS[own]))
    value.backward()
    loss.remember()
    assert embeddings.grad is not None
    return value.item(), embeddings.grad[own], loss.memory


def test_several_processes_have_losses_and_memory_of_one() -> None:
    loss, embeddings = make(), draw(12, 0).requires_grad_()
    value = total(look(loss, embeddings))
    value.backward()
    loss.remember()
    results = run_in_processes(look_at_own_part, 2)
    assert sum(part for part, _, _ in results) / 2 == pytest.approx(value.item())
    torch.testing.assert_close(torch.cat([gradient for _, gradient, _ in results]) / 2, embeddings.grad)
    for _, _, memory in results:
        torch.testing.assert_close(memory, loss.memory)
