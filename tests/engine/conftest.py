import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from config.params import Params
from engine.build import build_trainer
from engine.run import RunFolder
from engine.trainer import ReidTrainer
from tests.conftest import TINY_PARAMS

MakeTrainer = Callable[..., ReidTrainer]


@pytest.fixture
def make_trainer(tmp_path: Path, make_market: Callable[[Path], Path]) -> MakeTrainer:
    """Builds a small trainer in a run folder of its own, with some params changed."""
    market = make_market(tmp_path / "market")

    def make(name: str = "run", **changes: Any) -> ReidTrainer:
        raw = {**TINY_PARAMS, "batches_dir": str(market), "evaluation_params": {"type": None}, **changes}
        folder = RunFolder(str(tmp_path), name)
        folder.path.mkdir(exist_ok=True)
        return build_trainer(Params.model_validate_json(json.dumps(raw)), folder, torch.device("cpu"))

    return make


@pytest.fixture
def trainer(make_trainer: MakeTrainer) -> ReidTrainer:
    return make_trainer()
