import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from config.params import Params
from engine.build import Training, build_training, read_training_data
from tests.conftest import TINY_PARAMS


@pytest.fixture
def training(tmp_path: Path, make_market: Callable[[Path], Path]) -> Training:
    raw = {**TINY_PARAMS, "batches_dir": str(make_market(tmp_path / "market")), "evaluation_params": {"type": "any"}}
    params = Params.model_validate_json(json.dumps(raw))
    silent = params.model_copy(update={"evaluation_params": params.evaluation_params.model_copy(update={"type": None})})
    training = build_training(params, read_training_data(silent), torch.device("cpu"))
    (tmp_path / "run").mkdir()
    return training
