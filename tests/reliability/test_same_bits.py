"""From every state that a training saves it goes on to the same bits, whatever is trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from config.load import load_params
from data import read_ahead
from data.cache import build
from engine.fit import fit
from engine.recorder import Recorder
from engine.run_folder import RunFolder
from engine.state_writer import StateWriter
from engine.training import Training, build_training, read_training_data
from evaluate.core.plugins import plugin_options
from tests.conftest import TINY_PARAMS
from tests.reliability.runs import CLOCK
from utils.checkpoint import save_tensors

CPU = torch.device("cpu")
MODEL = TINY_PARAMS["model_params"]
SETTINGS: dict[str, dict[str, Any]] = {
    "stripes, global branch, dropout, erasing": {},
    "two batches a step, adamw": {"accumulate_steps": 2, "optimizer": "adamw", "data_cache": "none"},
    "the spectral transform sets in": {"model_params": {**MODEL, "spectral_start_epoch": 1}},
    "no evaluation, random order, rmsprop": {
        "batch_sampling_params": "8*1",
        "tri_loss_margin": 0,
        "model_params": {**MODEL, "spectral_trans": 0},
        "optimizer": "rmsprop",
        "evaluation_params": {"type": None},
    },
    "bf16, margins by schedule, evaluated every other epoch": {
        "precision": "bf16",
        "model_params": {**MODEL, "classifier": "cosine", "cosine_scale": 16},
        "softmax_margin": [0.0, 0.2],
        "softmax_margin_step": 3,
        "evaluation_params": {"type": "market_evaluate", "every_epochs": 2, "at_start": False},
    },
}


class Bench:
    """A folder with a data set, in which trainings are built and run within this process."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        raw = {**TINY_PARAMS, "batches_dir": str(folder / "market"), "log_every": 3, **settings}
        (folder / "params.json").write_text(json.dumps({**raw, "checkpoint": {"every_steps": 1}}))
        self.params, _ = load_params(folder / "params.json", plugin_options=plugin_options)
        self.dataset = read_training_data(self.params)

    def train(self, name: str, start: Path | None = None) -> tuple[Training, list[Path]]:
        """Train to the end, from a saved state if there is one; the training, and every state it has saved."""
        run = RunFolder(str(self.folder), name)
        run.path.mkdir()
        training = build_training(self.params, self.dataset, CPU, resume=start is not None)
        if start is not None:
            training.restore(start)
        save_tensors(run.last, training.state())
        states: list[Path] = []

        def keep() -> None:
            # The file is about to be replaced.
            states.append(run.path / f"state {len(states)}")
            shutil.copy(run.last, states[-1])

        with Recorder(run) as recorder, StateWriter(run.last, CPU, keep) as writer:
            fit(training, run, recorder, writer)
        return training, states


def told(training: Training) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name not in CLOCK} for record in training.records]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_state_leads_to_the_same_end(
    tmp_path: Path, make_market: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make_market(tmp_path / "market")
    bench = Bench(tmp_path, SETTINGS[name])
    whole, states = bench.train("whole")
    expected = whole.network.state_dict()
    steps = whole.steps_per_epoch
    # In both epochs, and between the last step of the first and its evaluation.
    for number, step in enumerate(sorted({1, steps, 2 * steps - 1})):
        # Neither the threads that read images nor where these are kept matter.
        monkeypatch.setattr(read_ahead, "num_own_cpus", lambda number=number: 1 + number)
        monkeypatch.setattr(build, "free_memory", lambda number=number: 2**40 if number % 2 else 0)
        again, _ = bench.train(f"from step {step}", states[step])
        assert again.step == whole.step
        assert all(torch.equal(value, expected[key]) for key, value in again.network.state_dict().items()), step
        assert told(again) == told(whole), step
        assert (again.best_score, again.best_accuracy) == (whole.best_score, whole.best_accuracy)
