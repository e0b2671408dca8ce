"""A run's folder: what lies in it, and who may begin in it."""

import shutil
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from config.params import Params
from utils.checkpoint import LAST, MODEL_BEST
from utils.errors import DataError, ParamsError
from utils.files import write_json
from utils.torchrun import may_be_restarted


class RunFolder(NamedTuple):
    """The folder of one run, `working_dir/<sub_working_dir>`."""

    working_dir: str
    name: str

    @property
    def path(self) -> Path:
        """The folder itself."""
        return Path(self.working_dir).expanduser() / self.name

    @property
    def params(self) -> Path:
        """The resolved params, all keys written out."""
        return self.path / "params.json"

    @property
    def log(self) -> Path:
        """Every log line with its time."""
        return self.path / "train_log"

    @property
    def metrics(self) -> Path:
        """One JSON object per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def best(self) -> Path:
        """The best model so far; with evaluation off, the last."""
        return self.path / MODEL_BEST

    @property
    def last(self) -> Path:
        """Everything needed to go on; there only while the run is unfinished."""
        return self.path / LAST


def new_name() -> str:
    """The name of a run that was given none: its start time.

    Raises:
        ParamsError: torchrun may start the run again; with another name it would be another run.
    """
    if may_be_restarted():
        raise ParamsError("a run that torchrun may start again needs a name to go on with: add --sub_working_dir NAME")
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def create_run_folder(params: Params, name: str) -> RunFolder:
    """Make the folder of a new run and write the resolved params into it.

    Raises:
        ParamsError: a run lies there already, or the name leaves `working_dir`.
        DataError: the folder cannot be made or written.
    """
    folder = _inside(params.working_dir, name)
    if folder.path.exists() and any(folder.path.iterdir()):
        raise ParamsError(
            f"{folder.path}: already holds a run; go on with --operation resume_train --sub_working_dir {name}, "
            "or choose another name"
        )
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder.path}: cannot be made ({error.strerror}); choose another working_dir") from error
    write_json(folder.params, params.model_dump(mode="json"))
    return folder


def open_run_folder(working_dir: str, name: str) -> RunFolder:
    """The folder of a run that was started before.

    Raises:
        ParamsError: the name leaves `working_dir`.
        DataError: there is none.
    """
    folder = _inside(working_dir, name)
    if not is_run(working_dir, name):
        raise DataError(f"{folder.path}: holds no run (no params.json); --set working_dir=DIR says where runs lie")
    return folder


def is_run(working_dir: str, name: str) -> bool:
    """Whether a run of that name was started before."""
    return _inside(working_dir, name).params.is_file()


def discard(folder: RunFolder) -> None:
    """Remove the folder of a run that failed before it trained, so that the next try may take its name."""
    shutil.rmtree(folder.path, ignore_errors=True)


def _inside(working_dir: str, name: str) -> RunFolder:
    folder = RunFolder(working_dir, name)
    if not name or Path(working_dir).expanduser().resolve() not in folder.path.resolve().parents:
        raise ParamsError(f"--sub_working_dir {name!r}: must name a folder inside {working_dir}")
    return folder
