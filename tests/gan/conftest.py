"""Trainings of a tiny person generator within this process, and a tiny re-ID network for what needs one."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from config.load import load_params
from config.params import Params
from engine.build import Training, build_training, read_training_data
from engine.checkpointing import AsyncCheckpointer
from engine.recorder import Recorder
from engine.run_folder import RunFolder
from engine.trainer import fit
from evaluate.core.plugins import plugin_options
from gan.fit import fit_generator
from gan.quality import Measured
from gan.trainer import GanTraining, build_gan_training, read_gan_data
from models.network import build_network
from tests.conftest import TINY_PARAMS
from tests.runs import CLOCK
from utils.checkpoint import Checkpoint, save_checkpoint, save_tensors

CPU = torch.device("cpu")
PIDS = [*range(3, 13), 20]
"""Of the training set that make_market draws, of 31 images."""
GAN: dict[str, Any] = {
    "img_h": 64, "input_dim": 6, "ngf": 4, "ndf": 4, "batch_size": 8, "epoch": 2, "lr": 2e-3, "lr_d": 3e-3,
    "betas": [0.5, 0.9], "d_update_freq": 1, "preheat_steps": 0, "loss": "hinge", "penalty": "r1",
    "penalty_weight": 1.0, "penalty_every": 3, "augmentation": ["translation"], "ema_decay": 0.9,
    "spectral_norm": True, "measured_by": "none", "measure_epochs": 1, "num_measured": 8,
}  # fmt: skip
"""Nothing is left to the defaults that a test could depend on."""
REID: dict[str, Any] = {
    **TINY_PARAMS,
    "batch_sampling_params": {"class_balanced": True, "P": 4, "K": 2},
    "model_params": {"model": "resnet_18", "feature_dim": 8, "pcb_n_parts": 2, "feature_global_dim": 4},
    "tri_loss_margin": 0.3,
    "evaluation_params": {"type": None},
}
"""The training of a re-ID network that generated images may join."""


class Bench:
    """A folder with a data set, in which trainings are built and run within this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def params(self, gan: dict[str, Any], **settings: Any) -> Params:
        """Checked, as a user's file would be."""
        raw = {**settings, "batches_dir": str(self.folder / "market"), "gan_params": {**GAN, **gan}}
        (self.folder / "params.json").write_text(json.dumps(raw))
        params, _ = load_params(self.folder / "params.json", plugin_options=plugin_options)
        return params

    def generator(self, gan: dict[str, Any] | None = None, *, resume: bool = False, **settings: Any) -> GanTraining:
        params = self.params(gan or {}, **settings)
        return build_gan_training(params, read_gan_data(params), CPU, resume=resume)

    def reid(self, gan: dict[str, Any] | None = None, *, resume: bool = False, **settings: Any) -> Training:
        params = self.params({"mix_ratio": 0.5, **(gan or {})}, **{**REID, **settings})
        return build_training(params, read_training_data(params), CPU, resume=resume)

    @contextmanager
    def desk(
        self, name: str, training: Training | GanTraining
    ) -> Iterator[tuple[RunFolder, Recorder, AsyncCheckpointer]]:
        """A run's folder that holds the training's state, and who writes there."""
        folder = RunFolder(str(self.folder), name)
        folder.path.mkdir()
        save_tensors(folder.last, training.state())
        with Recorder(folder) as recorder, AsyncCheckpointer(folder.last, CPU, recorder.flush) as writer:
            yield folder, recorder, writer

    def fit(self, name: str, training: Training | GanTraining) -> list[Path]:
        """Train to the end; every state that is saved on the way."""
        states: list[Path] = []
        with self.desk(name, training) as (folder, recorder, _):

            def keep() -> None:
                # The file is about to be replaced.
                states.append(folder.path / f"state {len(states)}")
                shutil.copy(folder.last, states[-1])

            with AsyncCheckpointer(folder.last, CPU, keep) as writer:
                if isinstance(training, Training):
                    fit(training, folder, recorder, writer)
                else:
                    fit_generator(training, folder, recorder, writer)
        return states


class FakeQuality:
    """Finds the distances it is told to find, one after another."""

    def __init__(self, distances: Sequence[float]) -> None:
        self.distances = list(distances)

    def __call__(self, _: object) -> Measured:
        return Measured({"fid": self.distances.pop(0), "kid": 0.5}, torch.zeros(4, 3, 64, 32, dtype=torch.uint8))


def told(training: Training | GanTraining) -> list[dict[str, Any]]:
    """The records of its epochs but for the clock's readings."""
    return [{name: value for name, value in record.items() if name not in CLOCK} for record in training.records]


def written(folder: Path) -> dict[str, Any]:
    """The generator.pth of a run's folder, as plain torch reads it."""
    return torch.load(folder / "generator.pth", weights_only=True)


def images_in(folder: Path, tag: str) -> list[tuple[int, tuple[int, int]]]:
    """Step and size of the pictures that TensorBoard shows."""
    events = EventAccumulator(str(folder), {"images": 0})
    events.Reload()
    return [(event.step, (event.height, event.width)) for event in events.Images(tag)]


@pytest.fixture
def bench(tmp_path: Path, make_market: Callable[[Path], Path]) -> Bench:
    make_market(tmp_path / "market")
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def reid_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained re-ID network, as a run leaves it."""
    path = tmp_path_factory.mktemp("reid") / "model_best.pth"
    params = Params.model_validate_json(json.dumps(REID | {"evaluation_params": {}}))
    torch.manual_seed(1)
    network = build_network(params.model_params, len(PIDS))
    save_checkpoint(path, Checkpoint(network.state_dict(), params.model_dump(mode="json"), PIDS, {}))
    return path
