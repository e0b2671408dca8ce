"""Small trainers of a person generator and of a re-ID network, built and run within this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from config.load import load_params
from config.params import Params
from engine.build import build_trainer
from engine.run import RunFolder
from engine.trainer import ReidTrainer, Trainer
from evaluate.core.plugins import plugin_options
from gan.steps import GanStepper, RealBatch
from gan.trainer import GanTrainer, build_gan_trainer
from losses.loss import Losses
from models.network import build_network
from tests.conftest import TINY_PARAMS
from tests.runs import CLOCK
from train import build_extra_images
from utils.checkpoint import Checkpoint, save_checkpoint

CPU = torch.device("cpu")
PIDS = [*range(3, 13), 20]
"""Of the training set that make_market draws, of 31 images."""
GAN: dict[str, Any] = {
    "img_h": 64, "input_dim": 6, "ngf": 4, "ndf": 4, "batch_size": 8, "epoch": 2, "lr": 2e-3, "lr_d": 3e-3,
    "betas": [0.5, 0.9], "d_update_freq": 1, "preheat_steps": 0, "loss": "hinge", "penalty": "r1",
    "penalty_weight": 1.0, "penalty_every": 3, "augmentation": ["translation"], "ema_decay": 0.9,
    "spectral_norm": True, "measured_by": "none", "measure_epochs": 1, "num_measured": 8,
}  # fmt: skip
"""Every setting that a test could depend on."""
REID: dict[str, Any] = {
    **TINY_PARAMS,
    "batch_sampling_params": {"class_balanced": True, "P": 4, "K": 2},
    "model_params": {"model": "resnet_18", "feature_dim": 8, "pcb_n_parts": 2, "feature_global_dim": 4},
    "tri_loss_margin": 0.3,
    "evaluation_params": {"type": None},
}
"""A training of a re-ID network that generated images may join."""


class Bench(NamedTuple):
    """A folder with a data set, in which trainers are built on a device."""

    folder: Path
    device: torch.device = CPU

    def params(self, gan: dict[str, Any], **settings: Any) -> Params:
        """Checked as a user's file."""
        raw = {**settings, "batches_dir": str(self.folder / "market"), "gan_params": {**GAN, **gan}}
        (self.folder / "params.json").write_text(json.dumps(raw))
        params, _ = load_params(self.folder / "params.json", plugin_options=plugin_options)
        return params

    def run(self, name: str, state: Path | None = None) -> RunFolder:
        """A run's folder; with the saved state of another run if it is to be resumed."""
        folder = RunFolder(str(self.folder), name)
        folder.path.mkdir(exist_ok=True)
        if state is not None:
            shutil.copy(state, folder.last)
        return folder

    def generator(
        self, name: str = "run", state: Path | None = None, *, gan: Any = None, **settings: Any
    ) -> GanTrainer:
        """The trainer of a generator; resumed if a state is given."""
        folder = self.run(name, state)
        trainer = build_gan_trainer(self.params(gan or {}, **settings), folder, self.device, state is not None)
        if state is not None:
            trainer.resume()
        return trainer

    def reid(self, name: str = "run", state: Path | None = None, *, gan: Any = None, **settings: Any) -> ReidTrainer:
        """The trainer of a re-ID network; resumed if a state is given."""
        params = self.params({"mix_ratio": 0.5, **(gan or {})}, **{**REID, **settings})
        trainer = build_trainer(params, self.run(name, state), self.device, state is not None, build_extra_images)
        if state is not None:
            trainer.resume()
        return trainer


def keep_states(trainer: Trainer) -> dict[int, Path]:
    """The states that a trainer saves from now on, each in a file of its own, by the number of steps done."""
    states: dict[int, Path] = {}
    save, last = trainer.save, trainer.folder.last

    def save_and_keep(*args: Any, **kwargs: Any) -> None:
        if not states:
            states[0] = Path(shutil.copy(last, last.with_name("state 0")))
        save(*args, **(kwargs | {"wait": True}))
        states[trainer.step] = Path(shutil.copy(last, last.with_name(f"state {trainer.step}")))

    trainer.save = save_and_keep  # pyright: ignore[reportAttributeAccessIssue]
    return states


def note_steps(
    stepper: GanStepper, before: Callable[[int, list[RealBatch]], object] = lambda *_: None
) -> list[tuple[list[RealBatch], Losses]]:
    """The batches and losses of the steps taken from now on; `before` is called with number and batches of each."""
    steps: list[tuple[list[RealBatch], Losses]] = []
    step = stepper.step

    def noted(batches: list[RealBatch], number: int) -> Losses:
        before(number, batches)
        steps.append((batches, step(batches, number)))
        return steps[-1][1]

    stepper.step = noted  # pyright: ignore[reportAttributeAccessIssue]
    return steps


def records_of(trainer: Trainer) -> list[dict[str, Any]]:
    """The records of its epochs without the clock's readings."""
    return [{name: value for name, value in record.items() if name not in CLOCK} for record in trainer.records]


def generator_file(folder: Path) -> dict[str, Any]:
    """The generator.pth of a run's folder, as plain torch reads it."""
    return torch.load(folder / "generator.pth", weights_only=True)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


@pytest.fixture
def bench(tmp_path: Path, make_market: Callable[[Path], Path]) -> Bench:
    make_market(tmp_path / "market")
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def reid_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained re-ID network in a file."""
    path = tmp_path_factory.mktemp("reid") / "model_best.pth"
    params = Params.model_validate_json(json.dumps(REID | {"evaluation_params": {}}))
    torch.manual_seed(1)
    network = build_network(params.model_params, len(PIDS))
    save_checkpoint(path, Checkpoint(network.state_dict(), params.model_dump(mode="json"), PIDS, {}))
    return path


@pytest.fixture(scope="session")
def generators(
    tmp_path_factory: pytest.TempPathFactory, make_market: Callable[[Path], Path], reid_checkpoint: Path
) -> dict[str, str]:
    """Run folders of an unconditional generator, "anybody", and of a conditioned one, "somebody"."""
    folder = tmp_path_factory.mktemp("generators")
    make_market(folder / "market")
    for name, condition in (("anybody", ""), ("somebody", str(reid_checkpoint))):
        Bench(folder).generator(name, gan={"epoch": 1, "condition": condition}).fit()
        checkpoint = generator_file(folder / name)
        for key, value in checkpoint["model"].items():
            # The pictures of a short training are all but grey; with larger weights none looks like another.
            if key.startswith("generator.") and value.ndim > 1:
                value.mul_(6)
        torch.save(checkpoint, folder / name / "generator.pth")
    return {name: str(folder / name) for name in ("anybody", "somebody")}
