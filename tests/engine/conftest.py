from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import engine.meter
from config.load import params_from_dict
from engine.build import build_trainer
from engine.run import RunFolder
from engine.trainer import ReidTrainer
from evaluate.core.plugins import plugin_options
from tests.conftest import TINY_PARAMS


class Clock:
    """Stands in for the module `time`; its time passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that steps are timed with."""
    clock = Clock()
    monkeypatch.setattr(engine.meter, "time", clock)
    return clock


MakeTrainer = Callable[..., ReidTrainer]


@pytest.fixture
def make_trainer(tmp_path: Path, make_market: Callable[[Path], Path]) -> MakeTrainer:
    """Builds a small trainer in a run folder of its own, with some params changed."""
    market = make_market(tmp_path / "market")

    def make(name: str = "run", **changes: Any) -> ReidTrainer:
        raw = {**TINY_PARAMS, "batches_dir": str(market), "evaluation_params": {"type": None}, **changes}
        folder = RunFolder(str(tmp_path), name)
        folder.path.mkdir(exist_ok=True)
        params, _ = params_from_dict(raw, "params.json", plugin_options)
        return build_trainer(params, folder, torch.device("cpu"))

    return make


@pytest.fixture
def trainer(make_trainer: MakeTrainer) -> ReidTrainer:
    return make_trainer()
