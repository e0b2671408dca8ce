"""A transformer teaches an OSNet, which is then deployed without it, as processes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.predictor import Predictor
from tests.conftest import Script
from tests.runs import records_of
from utils.checkpoint import load_checkpoint

TEACHER = {"model": "timm:test_vit", "feature_dim": 0, "retrieval_of": "features"}
STUDENT = {"model": "osnet_x0_25", "feature_dim": 16, "pcb_n_parts": 2, "feature_global_dim": 8}


@pytest.mark.slow
def test_a_student_is_exported_and_evaluated_without_its_teacher(
    script: Script, make_market: Callable[[Path], Path]
) -> None:
    make_market(script.folder / "market")
    # Six rows of patches in images of 96 x 48, normalised as the transformer's weights expect.
    common = {"epoch": 1, "evaluation_params": {"type": "market_evaluate", "at_start": False}}
    script.write_params("teacher.json", **common, img_h=96, img_w=48, model_params=TEACHER)
    script.succeed("train.py", "--config_path", "teacher.json", "--sub_working_dir", "teacher")
    weights = {"lambda_logits": 1.0, "lambda_embedding": 1.0}
    taught = {"model_params": STUDENT, "distillation": {"teacher": "runs/teacher", **weights}}
    script.write_params("student.json", **common, **taught, precision="bf16")
    messages = script.succeed("train.py", "--config_path", "student.json", "--sub_working_dir", "student").stderr
    assert "timm:test_vit with an embedding of 64" in messages
    student = script.folder / "runs" / "student"
    losses = records_of(student)[-1]["losses"]
    assert 0 < losses["distillation_embedding"] < 4
    assert losses["distillation_logits"] > 0
    assert not any("distillation" in name for name in load_checkpoint(student / "model_best.pth").model)
    shutil.rmtree(script.folder / "runs" / "teacher")
    script.succeed("train.py", "--operation", "export_onnx", "--sub_working_dir", "student")
    script.succeed("evaluator.py", "runs/student/model.onnx", "--set", "result_log_file=result.json")
    assert json.loads((script.folder / "result.json").read_text())["metrics"].keys() >= {"rank1", "mAP"}
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), np.uint8)
    exported, trained = (Predictor(student / name).embed(pixels) for name in ("model.onnx", "model_best.pth"))
    assert exported.shape == (3, 24)
    np.testing.assert_allclose(exported, trained, atol=1e-4)
