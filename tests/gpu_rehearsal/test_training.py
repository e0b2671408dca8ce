"""The commands of a first day with a GPU, on the fake one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import evaluator
import train
from deploy.networks import TorchNetwork
from engine.batches import TrainBatch
from engine.trainer import ReidTrainer
from tests.conftest import TINY_PARAMS
from tests.gan.conftest import GAN, REID
from tests.gpu_rehearsal.fake_gpu import FakeGpu
from tests.unsupervised.conftest import CLUSTERING

PARAMS = {**TINY_PARAMS, "batches_dir": "market", "precision": "fp32", "compile": "off", "deterministic": True}

WITHOUT_LABELS = {
    "tri_loss_lambda_cls": 0,
    "model_params": {**TINY_PARAMS["model_params"], "spectral_trans": 0},
    "clustering_params": {**CLUSTERING, "iterations": 4},
}


@pytest.fixture
def command(
    gpu: FakeGpu, tmp_path: Path, make_market: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Runs an operation of train.py with the tiny params, some of them changed."""
    monkeypatch.chdir(tmp_path)
    make_market(tmp_path / "market")

    def run(operation: str, name: str, *arguments: str, **changes: Any) -> None:
        Path("params.json").write_text(json.dumps({**PARAMS, **changes}))
        train.main(["--operation", operation, "--sub_working_dir", name, *arguments])

    return run


@pytest.mark.parametrize(
    ("evaluation", "data_cache", "changes"),
    [
        ({"type": "market_evaluate", "flip": True}, "device", {}),
        ({"type": "lfw_evaluate", "num_pairs": 20, "num_folds": 2}, "ram", {}),
        ({"type": None}, "none", {}),
        ({"type": None}, "device", WITHOUT_LABELS),
    ],
)
def test_a_training_that_is_stopped_and_resumed(
    command: Callable[..., None],
    evaluation: dict[str, Any],
    data_cache: str,
    changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    original = ReidTrainer.train_step

    def stops(trainer: ReidTrainer, batches: list[TrainBatch]) -> Tensor:
        if trainer.step == 5:
            raise KeyboardInterrupt
        return original(trainer, batches)

    monkeypatch.setattr(ReidTrainer, "train_step", stops)
    with pytest.raises(KeyboardInterrupt):
        command("start_train", "run", evaluation_params=evaluation, data_cache=data_cache, **changes)
    assert "computing on GPU 0: fake" in caplog.text
    monkeypatch.setattr(ReidTrainer, "train_step", original)
    command("resume_train", "run")
    assert "finished: runs/run/model_best.pth" in caplog.text


RE_RANKINGS: list[dict[str, Any]] = [
    {"re_ranking": "k_reciprocal", "k_reciprocal": {"k1": 4, "k2": 2}, "normalisation": "branch", "flip": True},
    {"re_ranking": "spectral", "spectral": {"top": 4}, "metric": "euclidean", "query_expansion": 2},
    {"protocol": "random_gallery", "multi_query": True},
]


def test_evaluations(command: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    command("start_train", "run", evaluation_params={"type": None}, epoch=1)
    found, embeddings = [], []
    for has_gpu in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3), dtype=np.uint8)
        embeddings.append(TorchNetwork(Path("runs/run/model_best.pth")).embed(pixels).embeddings)
        for number, options in enumerate(RE_RANKINGS):
            files = {} if number else {"report_path": "report.html", "pictures_dir": "pictures"}
            evaluation = {"type": "market_evaluate", **options}
            settings = {"model_path": "runs/run", "evaluation_params": evaluation, "result_log_file": "result.json"}
            Path("eval_params.json").write_text(json.dumps({**settings, **files}))
            evaluator.main(["eval_params.json"])
            found.append(json.loads(Path("result.json").read_text())["metrics"])
    for mine, same in zip(found[: len(RE_RANKINGS)], found[len(RE_RANKINGS) :], strict=True):
        assert mine == pytest.approx(same, abs=1e-6)
    np.testing.assert_allclose(*embeddings, atol=1e-6)


def test_a_generator(command: Callable[..., None]) -> None:
    settings = {**REID, **PARAMS, "evaluation_params": {"type": None}}
    command("start_train", "reid", **settings)
    gan = {**GAN, "epoch": 1, "condition": "runs/reid", "measured_by": "runs/reid"}
    command("train_gan", "gan", **settings, gan_params=gan)
    command("sample_gan", "gan", "--out", "pictures", "--count", "3")
    assert len(list(Path("pictures").glob("0*.png"))) == 3
