"""Where curves, images and files of a run go: the `loggers` of the params, each a `Sink` in a file of its own."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from utils.errors import ParamsError

TENSORBOARD = "tensorboard"


class Sink(Protocol):
    """Takes what a run records. A failure must end the sink, not the training.

    The training calls all methods, one at a time; another thread may call `flush` while one of them runs.
    """

    takes_files: bool
    """Whether it has a use for `file`."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of each curve, by its tag such as "train/softmax"."""

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """One image (H, W, 3) uint8."""

    def file(self, path: Path) -> None:
        """A file that the finished run leaves: its best model, or its report."""

    def flush(self) -> None:
        """Return when everything given before is saved, or is about to be; called before the state is saved."""

    def close(self) -> None:
        """Flush, and end."""


def check_loggers(names: Sequence[str]) -> None:
    """Check that the packages of the loggers are installed; none is imported.

    Raises:
        ParamsError: one is not.
    """
    for name in names:
        if name != TENSORBOARD and find_spec(name) is None:
            raise ParamsError(f'loggers: "{name}" needs a package that is not installed: pip install {name}')


def open_sinks(names: Sequence[str], folder: Path, params: Mapping[str, Any], purge_step: int) -> list[Sink]:
    """Open the loggers of a run; those that lie elsewhere continue the run that they have begun for this folder.

    Args:
        names: of the loggers.
        folder: of the run.
        params: of the run, as plain values.
        purge_step: what was recorded at this step or later is recorded again; 0 for a new run.
    """
    sinks: list[Sink] = []
    for name in names:
        if name == TENSORBOARD:
            from engine.sinks.tensorboard import TensorBoard

            sinks.append(TensorBoard(folder, purge_step))
        else:
            from engine.sinks.process import LoggerProcess

            sinks.append(LoggerProcess(name, folder, params))
    return sinks
