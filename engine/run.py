"""A run: its plan, and its folder with files and lock, which is removed or kept when the run fails."""

import logging
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from config.load import OPERATION
from config.params import Params
from utils.checkpoint import GENERATOR, LAST, MODEL_BEST, is_finished
from utils.distributed import fail_together, this_process
from utils.errors import DataError, ParamsError
from utils.files import expand_user, remove_leftovers, write_json
from utils.locks import locked
from utils.process import may_be_restarted

logger = logging.getLogger(__name__)

LOCK = ".lock"
"""In a run's folder while it is trained in: keeps others out."""


class RunFolder(NamedTuple):
    """The folder of one run, `working_dir/<sub_working_dir>`."""

    working_dir: str
    name: str

    @property
    def path(self) -> Path:
        """The folder itself."""
        return expand_user(self.working_dir) / self.name

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
    def report(self) -> Path:
        """The report of the best model, written for loggers that take files."""
        return self.path / "report.html"

    @property
    def best(self) -> Path:
        """The best model so far; with evaluation off, the last."""
        return self.path / MODEL_BEST

    @property
    def generator(self) -> Path:
        """The person generator that was trained here, the best so far; there only if one was."""
        return self.path / GENERATOR

    @property
    def last(self) -> Path:
        """Everything needed to go on; there only while the run is unfinished."""
        return self.path / LAST


class TrainingPlan(NamedTuple):
    """The arithmetic of a training."""

    num_epochs: int
    steps_per_epoch: int
    """The same in every epoch."""
    images_per_step: int
    """Of all batches and all processes."""
    evaluate_every: int
    """Epochs from one evaluation to the next, the last epoch always has one; 0 = no evaluation."""
    evaluate_at_start: bool
    """Whether the untrained network is evaluated."""
    memory_use: str
    """What a step holds in memory, for the message that it was too much."""
    memory_advice: str
    """What to lower then."""


class Run(NamedTuple):
    """One run."""

    params: Params
    folder: RunFolder
    """Locked by this run."""
    device: torch.device
    """Of this process."""
    plan: TrainingPlan
    fingerprint: dict[str, Any]
    """Data, settings and environment; a saved state is only resumed with an equal one."""


def new_name() -> str:
    """The name of a run that was given none: its start time.

    Raises:
        ParamsError: torchrun may start the run again; with another name it would be another run.
    """
    if may_be_restarted():
        raise ParamsError("a run that torchrun may restart needs a name to be resumed by: add --sub_working_dir NAME")
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def run_folder(working_dir: str, name: str) -> RunFolder:
    """The folder of a run, which need not exist.

    Raises:
        ParamsError: the name leaves `working_dir`.
    """
    folder = RunFolder(working_dir, name)
    if not name or expand_user(working_dir).resolve() not in folder.path.resolve().parents:
        raise ParamsError(f"--sub_working_dir {name!r}: must name a folder inside {working_dir}")
    return folder


def open_run_folder(working_dir: str, name: str) -> RunFolder:
    """The folder of a run that was started before.

    Raises:
        ParamsError: the name leaves `working_dir`.
        DataError: there is none.
    """
    folder = run_folder(working_dir, name)
    if not is_run(folder):
        raise DataError(f"{folder.path}: holds no run (no params.json); --set working_dir=DIR says where runs lie")
    return folder


@contextmanager
def lock_run(folder: RunFolder) -> Iterator[None]:
    """Keep every other run out of the folder, which is made if need be; every process must call this.

    Raises:
        LockedError: another process trains in it.
        DataError: the folder cannot be made or written.
    """
    with ExitStack() as stack:
        with fail_together():
            if this_process().is_rank_zero:
                stack.enter_context(_hold(folder))
        yield


@contextmanager
def _hold(folder: RunFolder) -> Iterator[None]:
    """The same in the one process that holds the lock; removes what a killed process left half-written."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder.path}: cannot be made ({error.strerror}); choose another working_dir") from error
    with locked(folder.path / LOCK, "a training", wait=False):
        # Of the run's own files only: an evaluation may be writing beside them.
        for path in (folder.params, folder.last, folder.best, folder.generator, folder.metrics, folder.report):
            remove_leftovers(folder.path, path.name)
        yield


def write_params(folder: RunFolder, params: Params, operation: str) -> None:
    """Start a new run: write its resolved params and its operation into its folder, which the caller has locked.

    Raises:
        ParamsError: a run lies there already.
        DataError: the folder cannot be written.
    """
    if any(not entry.name.startswith(LOCK) for entry in folder.path.iterdir()):
        raise ParamsError(
            f"{folder.path}: already holds a run; resume it with --operation resume_train "
            f"--sub_working_dir {folder.name}, or choose another name"
        )
    try:
        write_json(folder.params, {OPERATION: operation, **params.model_dump(mode="json")})
    except BaseException:
        discard(folder)
        raise


def is_run(folder: RunFolder) -> bool:
    """Whether a run was started in the folder before."""
    return folder.params.is_file()


def discard(folder: RunFolder) -> None:
    """Remove the folder of a run that failed before it trained, so that the next try may take its name."""
    shutil.rmtree(folder.path, ignore_errors=True)


@contextmanager
def cleanup_on_failure(folder: RunFolder, params: Params, *, is_new: bool) -> Iterator[None]:
    """Remove the folder of a new run that fails before its first state is saved; say how to resume one that is stopped.

    Args:
        folder: of the run.
        params: of the run.
        is_new: whether the folder was made for this run.
    """
    try:
        yield
    except BaseException as error:
        if not this_process().is_rank_zero:
            raise
        if is_new and not (folder.last.exists() or is_finished(folder.path)):
            discard(folder)
        elif isinstance(error, KeyboardInterrupt) and folder.last.exists():
            logger.info("stopped; resume with: %s", _resume_command(folder, params))
        raise


def _resume_command(folder: RunFolder, params: Params) -> str:
    """With `parallels` the command starts its processes itself; otherwise torchrun does, as at the start."""
    dist = this_process()
    alone = dist.world_size == 1 or len(params.parallels) > 1
    start = ["python"] if alone else ["torchrun", f"--nproc-per-node={dist.local_world_size}"]
    elsewhere = [] if folder.working_dir == Params().working_dir else ["--set", f"working_dir={folder.working_dir}"]
    words = "train.py", "--operation", "resume_train", "--sub_working_dir", folder.name
    return shlex.join([*start, *words, *elsewhere])
