"""Whole trainings on a GPU: within this process, and as a user starts them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from models.network import Embedder
from tests.conftest import TINY_PARAMS, Script, torchrun
from tests.gan.conftest import Bench
from tests.gpu.conftest import BOTH, CPU, GPU
from tests.runs import records_of, same_weights, weights_of
from utils.precision import evaluation_precision

START = ("train.py", "--operation", "start_train", "--sub_working_dir")
MARKET = {"type": "market_evaluate", "at_start": False, "batch_size": 8}
STRIPES: dict[str, Any] = {"model": "resnet_18", "feature_dim": 8, "pcb_n_parts": 2, "feature_global_dim": 4}


@BOTH
@pytest.mark.usefixtures("compiler")
def test_generated_images_join_a_compiled_training_with_erasing(bench: Bench, device: torch.device) -> None:
    trainer = bench.reid(
        gan={"adv_train": True, "mix_start_epoch": 1, "mix_ratio": 0.5},
        compile="on",
        model_params=STRIPES | {"last_conv_stride": 1, "part_feature_erasing": 0.5},
        evaluation_params=MARKET,
    )
    trainer.fit()
    before, after = (record["losses"] for record in trainer.records)
    assert "outliers" not in before
    assert after["outliers"] > 0
    assert all(0 < record["metrics"]["mAP"] <= 1 for record in trainer.records)
    # The evaluation's embedding is compiled, too; for batches of this size it is by now.
    images = torch.randn(8, 3, 64, 32).to(device, memory_format=torch.channels_last)
    plain = Embedder(trainer.network, trainer.batches.pids).eval()
    with torch.inference_mode(), evaluation_precision("auto", device).autocast(device):
        embeddings = [F.normalize(embedder(images).float()) for embedder in (trainer.embedder, plain)]
    torch.testing.assert_close(*embeddings, rtol=0, atol=0.1)


@BOTH
def test_half_precision_trains_and_evaluates(bench: Bench, device: torch.device) -> None:
    precision = "fp16" if device.type == "cuda" else "bf16"
    trainer = bench.reid(gan={"mix_ratio": 0.0}, precision=precision, compile="off", evaluation_params=MARKET)
    trainer.fit()
    assert trainer.stepper.precision.name == precision
    assert trainer.epoch == 2
    assert all(value.isfinite().all() for value in trainer.network.state_dict().values())
    assert 0 < trainer.records[-1]["metrics"]["mAP"] <= 1


@pytest.mark.parametrize("device", [pytest.param(CPU, id="cpu", marks=pytest.mark.slow), GPU], indirect=True)
def test_a_deterministic_training_gives_the_same_bits_again(
    script: Script, make_market: Callable[[Path], Path]
) -> None:
    make_market(script.folder / "market")
    model = {**TINY_PARAMS["model_params"], "pcb_dropout": 0.2, "part_feature_erasing": 0.5, "last_conv_stride": 1}
    script.write_params(
        deterministic=True, compile="off", model_params=model, tri_loss_on=["global", "parts", "concat"]
    )
    for name in ("one", "other"):
        script.succeed(*START, name)
    one, other = (script.folder / "runs" / name for name in ("one", "other"))
    assert same_weights(weights_of(one), weights_of(other))
    assert records_of(one) == records_of(other)
    assert len(records_of(one)) == TINY_PARAMS["epoch"]


def test_the_scripts_train_and_evaluate_on_the_gpu(
    script: Script, make_market: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another process may choose other convolutions: with products of full precision they hardly differ.
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    make_market(script.folder / "market")
    script.write_params(precision="fp32")
    process = script.succeed(*START, "run")
    assert "computing on GPU 0" in process.stderr
    (script.folder / "eval_params.json").write_text('{"result_log_file": "result.json"}')
    script.succeed("evaluator.py", "eval_params.json")
    best = max((record["metrics"] for record in records_of(script.folder / "runs/run")), key=lambda found: found["mAP"])
    assert json.loads((script.folder / "result.json").read_text())["metrics"] == pytest.approx(best, abs=1e-4)


def test_a_process_of_torchrun_synchronises_with_itself(script: Script, make_market: Callable[[Path], Path]) -> None:
    make_market(script.folder / "market")
    script.write_params(sync_bn=True, gather_embeddings=True)
    process = script.run(*START, "run", launcher=torchrun("--nproc-per-node", "1"))
    assert process.returncode == 0, process.stderr
    assert "computing on GPU 0" in process.stderr
    assert len(records_of(script.folder / "runs/run")) == TINY_PARAMS["epoch"]
