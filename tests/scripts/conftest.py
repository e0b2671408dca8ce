"""Runs that are trained once for all the tests that only look at them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import Script
from tests.runs import records_of

GAN: dict[str, Any] = {
    "img_h": 64, "input_dim": 6, "ngf": 4, "ndf": 4, "batch_size": 8, "epoch": 2, "penalty_every": 3,
    "preheat_steps": 0, "measured_by": "none", "num_measured": 8,
}  # fmt: skip
"""A generator that is trained in a second."""


class FinishedRun(NamedTuple):
    """What a finished training left, and how it was started."""

    script: Script
    operation: str
    path: Path
    result: str
    """The name of the file it was trained for."""
    messages: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return records_of(self.path, clock=True)


def finish(script: Script, operation: str, result: str, preloaded: bool = True) -> FinishedRun:
    starting = Script(script.folder, preloaded)
    process = starting.succeed("train.py", "--operation", operation, "--sub_working_dir", "first")
    return FinishedRun(script, operation, script.folder / "runs" / "first", result, process.stderr)


@pytest.fixture(scope="session")
def finished_training(tmp_path_factory: pytest.TempPathFactory, make_market: Callable[[Path], Path]) -> FinishedRun:
    """Started by the command that users type."""
    script = Script(tmp_path_factory.mktemp("training"))
    make_market(script.folder / "market")
    script.write_params()
    return finish(script, "start_train", "model_best.pth", preloaded=False)


@pytest.fixture(scope="session")
def finished_generator(tmp_path_factory: pytest.TempPathFactory, make_market: Callable[[Path], Path]) -> FinishedRun:
    script = Script(tmp_path_factory.mktemp("generator"))
    make_market(script.folder / "market")
    script.write_params(gan_params=GAN)
    return finish(script, "train_gan", "generator.pth")
