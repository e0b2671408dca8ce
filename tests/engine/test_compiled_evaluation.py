"""Training and evaluation, both compiled, have one graph each, whatever alternates; without a compiler's backend."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from torch import nn

from engine.run import Run
from engine.trainer import ReidTrainer
from evaluate.core import extract
from evaluate.core.context import EvalContext
from evaluate.core.plugins import evaluate
from tests.conftest import TINY_PARAMS
from tests.engine.conftest import MakeTrainer

MODEL = {**TINY_PARAMS["model_params"], "spectral_trans": 0.0}  # from some epoch on it would be another graph
BATCH = 5  # the 7 query and 14 gallery images are no multiple of it


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the modules of which graphs are made, in order; a break in a graph is an error."""
    made: list[str] = []
    compile_module: Callable[..., None] = nn.Module.compile

    def compiled(module: nn.Module, *, mode: str = "default", dynamic: bool) -> None:
        def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
            made.append(type(module).__name__)
            return graph.forward

        compile_module(module, backend=backend, fullgraph=True, dynamic=dynamic)

    monkeypatch.setattr(nn.Module, "compile", compiled)
    torch._dynamo.reset()
    yield made
    torch._dynamo.reset()


@pytest.fixture
def trainer(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, graphs: list[str]) -> ReidTrainer:
    """As on a GPU that compiles: the embedding is compiled, and its batches are full ones."""
    monkeypatch.setattr(extract, "_has_one_shape", lambda device: True)
    trainer = make_trainer(
        compile="on",
        model_params=MODEL,
        evaluation_params={"type": "market_evaluate", "batch_size": BATCH, "rank_list_queries": 0},
    )
    trainer.embedder.compile(dynamic=False)
    return trainer


def test_steps_and_evaluations_make_one_graph_each(trainer: ReidTrainer, graphs: list[str]) -> None:
    trainer.fit()  # evaluated before the first epoch and after each of two
    with_flip = trainer.params.evaluation_params.model_copy(update={"flip": True})
    params = trainer.params.model_copy(update={"evaluation_params": with_flip})
    evaluate(EvalContext(params, trainer.embedder.eval()))
    assert graphs == ["Embedder", "ModelWithLoss"]


def test_the_embedding_does_not_depend_on_how_a_batch_is_filled_up(
    trainer: ReidTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = trainer.evaluate()
    monkeypatch.setattr(extract, "_has_one_shape", lambda device: False)
    assert trainer.evaluate().metrics == pytest.approx(full.metrics, abs=1e-6)


@pytest.mark.parametrize(
    ("device", "mode", "is_compiled"),
    [("cuda", "on", True), ("cuda", "graphs", True), ("cuda", "off", False), ("cpu", "on", False)],
)
@pytest.mark.usefixtures("graphs")
def test_the_embedding_is_compiled_on_a_gpu_where_the_steps_are(
    make_trainer: MakeTrainer, device: str, mode: Literal["on", "graphs", "off"], is_compiled: bool
) -> None:
    one = make_trainer()
    stepper = one.stepper
    stepper.device, stepper.compile_mode = torch.device(device), mode
    run = Run(one.params, one.folder, one.device, one.plan, one.fingerprint)
    trainer = ReidTrainer(run, one.batches, stepper, one.schedule, None)
    assert trainer.embedder.is_compiled == is_compiled
