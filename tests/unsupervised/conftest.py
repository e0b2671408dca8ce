"""Small trainings without labels, built and run within this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from config.load import load_params
from engine.run import RunFolder
from evaluate.core.plugins import plugin_options
from models.backbones.registry import BACKBONES
from tests.gpu_rehearsal.trainings import TINY_ENTRY
from train import build_reid_trainer
from unsupervised.trainer import ClusterTrainer

CLUSTERING = {"method": "cluster_contrast", "iterations": 3, "k1": 3, "k2": 2, "min_samples": 2, "eps": 0.7}
SETTINGS: dict[str, Any] = {
    "img_h": 64, "img_w": 32, "epoch": 2, "log_every": 2, "batch_sampling_params": "4*2", "tri_loss_lambda_cls": 0,
    "model_params": {"model": "resnet_18", "feature_dim": 16, "pcb_n_parts": 2, "feature_global_dim": 8},
    "data_augmentation": {"pad": 4, "random_erasing": {"probability": 0.5}},
    "lr": {"base_lr": 0.001, "fc_lr": 0.001}, "optimizer": "adam", "evaluation_params": {"type": None},
    "clustering_params": CLUSTERING, "checkpoint": {"every_steps": 1}, "loggers": [],
}  # fmt: skip


class Bench(NamedTuple):
    """A folder with a data set, in which trainers are built; its backbone has two convolutions."""

    folder: Path
    data: str = "market"

    def trainer(self, name: str = "run", state: Path | None = None, **changes: Any) -> ClusterTrainer:
        """The trainer of a run, resumed if a state is given; sections are merged into `SETTINGS`."""
        raw = {**SETTINGS, "batches_dir": str(self.folder / self.data)}
        for key, value in changes.items():
            raw[key] = {**raw[key], **value} if isinstance(value, dict) and isinstance(raw.get(key), dict) else value
        (self.folder / "params.json").write_text(json.dumps(raw))
        params, _ = load_params(self.folder / "params.json", plugin_options=plugin_options)
        folder = RunFolder(str(self.folder), name)
        folder.path.mkdir(exist_ok=True)
        if state is not None:
            shutil.copy(state, folder.last)
        trainer = build_reid_trainer(params, folder, torch.device("cpu"), state is not None)
        assert isinstance(trainer, ClusterTrainer)
        if state is not None:
            trainer.resume()
        return trainer


@pytest.fixture
def bench(tmp_path: Path, make_market: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """With the 31 training images of 11 identities that `make_market` draws, each identity in a colour of its own."""
    monkeypatch.setitem(BACKBONES, "resnet_18", TINY_ENTRY)
    make_market(tmp_path / "market")
    return Bench(tmp_path)
