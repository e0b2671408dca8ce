"""Network and losses compile into one graph without breaks, in every setting, which serves all steps of a training."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

from models.network import Embedder
from tests.gpu_rehearsal.fake_gpu import CPU
from tests.gpu_rehearsal.trainings import SECOND_GRAPH, SETTINGS, make_trainer, train

QUICK = {
    "a ResNet", "TransReID", "LightMBN", "every triplet", "scheduled margins", "own lengths, a constant margin",
    "a late spectral transform", "distillation", "clusters", "camera proxies", "accumulated", "generated persons",
}  # fmt: skip
"""Settings that `make test` tries; each compiles for seconds."""


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[GraphModule]]:
    """The graphs that were compiled so far, as far as can be without a compiler. A break is an error."""
    compiled: list[GraphModule] = []
    in_parts = torch._dynamo.lookup_backend("aot_eager_decomp_partition")

    def backend(graph: GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        compiled.append(graph)
        return in_parts(graph, inputs)

    def compile_whole(model: Callable[..., Any], mode: str, dynamic: bool) -> Callable[..., Any]:
        return original(model, backend=backend, fullgraph=True, dynamic=dynamic)

    original = torch.compile
    monkeypatch.setattr(torch, "compile", compile_whole)
    torch._dynamo.reset()
    yield compiled
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "setting",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SETTINGS],
)
def test_one_graph_serves_twelve_steps_with_evaluations_between(setting: str, graphs: list[GraphModule]) -> None:
    trainer, found = make_trainer(setting, CPU, compile_mode="on"), []
    for _ in train(trainer, 6):
        found.append(len(graphs))
        with torch.inference_mode():
            Embedder(trainer.stepper.evaluated).eval()(torch.randn(5, 3, trainer.params.img_h, 32))
    assert trainer.step == 12
    assert found == [1] + [2 if setting in SECOND_GRAPH else 1] * 5
    # Reading a number is part of a graph, but waits for the GPU.
    assert all(node.target != "item" for graph in graphs for node in graph.graph.nodes)
