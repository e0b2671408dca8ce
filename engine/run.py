"""One run, from its folder to its end: a new one from the start, an interrupted one from where it stood."""

import logging
import platform
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from config.params import Params
from engine.recorder import Recorder
from engine.resumable import Resumable
from engine.run_folder import RunFolder, discard, hold
from engine.state_writer import StateWriter
from utils.checkpoint import is_finished, load_checkpoint, save_tensors
from utils.device import describe_device
from utils.distributed import broadcast_from_rank0, fail_together, this_process
from utils.errors import DataError, ParamsError
from utils.logs import log_to_file

logger = logging.getLogger(__name__)


@contextmanager
def lock_run(folder: RunFolder) -> Iterator[None]:
    """Keep every other run out of the folder, which is made if it is not there; every process must call this.

    Raises:
        LockedError: another process trains in it.
    """
    with ExitStack() as stack:
        with fail_together():
            if this_process().is_rank_zero:
                stack.enter_context(hold(folder))
        yield


class Kind(NamedTuple):
    """What a run trains."""

    operation: str
    """That begins such a run."""
    build: Callable[[Params, torch.device, bool], Resumable]
    """Reads the data and builds the training; True where its weights come from a saved state."""
    begin: Callable[[Any, Recorder], None]
    """What a new training does before its first step, such as measuring the untrained network."""
    fit: Callable[[Any, RunFolder, Recorder, StateWriter], None]
    """Trains from where the training stands to the end."""
    best: Callable[[RunFolder], Path]
    """The file that is left in the end."""
    epochs_key: str
    """The setting that says how many epochs there are."""


def train_run(
    kind: Kind, folder: RunFolder, params: Params, device: torch.device, notes: Sequence[str], *, is_new: bool
) -> None:
    """Train to the end; a run that was stopped before its first state was saved begins anew.

    Args:
        kind: of the folder's run.
        folder: held by this run; holds its params.
        params: those of the folder.
        device: of this process.
        notes: what the log is to say of the params.
        is_new: whether nobody has trained in the folder. Such a run leaves none behind if it fails before it trains.
    """
    is_begun = broadcast_from_rank0(not is_new and folder.last.is_file())
    with cleanup_on_failure(folder, params, is_new=is_new):
        _log_circumstances(folder, params, device, notes)
        training = kind.build(params, device, is_begun)
        if is_begun:
            training.restore(folder.last)
        purge_step = None if is_new else _first_step_to_record_again(training) if is_begun else 0
        with (
            Recorder(folder, purge_step) as recorder,
            StateWriter(folder.last, device, recorder.flush, writes=this_process().is_rank_zero) as writer,
        ):
            if is_begun:
                _go_on(kind, training, folder, recorder)
            else:
                kind.begin(training, recorder)
                _save_first_state(training, folder, recorder)
            writer.written = f"step {training.step}"
            kind.fit(training, folder, recorder, writer)


def _save_first_state(training: Resumable, folder: RunFolder, recorder: Recorder) -> None:
    recorder.flush()
    state = training.state()
    with fail_together():
        if this_process().is_rank_zero:
            save_tensors(folder.last, state)


def _go_on(kind: Kind, training: Resumable, folder: RunFolder, recorder: Recorder) -> None:
    """Tell where the run stands, and bring its other files there."""
    logger.info("resumed after step %d, in epoch %d of %d", training.step, training.epoch + 1, training.num_epochs)
    if training.epoch >= training.num_epochs:
        done = training.epoch
        key = kind.epochs_key
        raise ParamsError(f"{folder.params}: {key}: {done} epochs are done; set at least {done + 1} to go on")
    recorder.epochs(training.records)
    if training.best_score is None or not this_process().is_rank_zero:
        return
    try:
        load_checkpoint(kind.best(folder))
    except DataError as error:
        logger.warning("the best model is lost, so the next one measured is kept, whatever its score: %s", error)
        training.best_score = None


def _first_step_to_record_again(training: Resumable) -> int:
    """From this step on curves are drawn once more. What belongs to a whole epoch stands at its last step."""
    is_epoch_through = training.step == (training.epoch + 1) * training.steps_per_epoch
    return training.step if is_epoch_through else training.step + 1


@contextmanager
def cleanup_on_failure(folder: RunFolder, params: Params, *, is_new: bool) -> Iterator[None]:
    """A new run stopped before training leaves no folder in the way of the next try; later it says how to go on."""
    try:
        yield
    except BaseException as error:
        if not this_process().is_rank_zero:
            raise
        if is_new and not (folder.last.exists() or is_finished(folder.path)):
            discard(folder)
        elif isinstance(error, KeyboardInterrupt) and folder.last.exists():
            logger.info("stopped; go on with: %s", _command_to_go_on(folder, params))
        raise


def _command_to_go_on(folder: RunFolder, params: Params) -> str:
    """As the run began: with `parallels` the command starts its processes itself."""
    dist = this_process()
    alone = dist.world_size == 1 or len(params.parallels) > 1
    start = ["python"] if alone else ["torchrun", f"--nproc-per-node={dist.local_world_size}"]
    elsewhere = [] if folder.working_dir == Params().working_dir else ["--set", f"working_dir={folder.working_dir}"]
    words = "train.py", "--operation", "resume_train", "--sub_working_dir", folder.name
    return shlex.join([*start, *words, *elsewhere])


def _log_circumstances(folder: RunFolder, params: Params, device: torch.device, notes: Sequence[str]) -> None:
    """Begin the run's train_log: versions, device, and what there is to say of the params."""
    if this_process().is_rank_zero:
        log_to_file(folder.log)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy", "Pillow"))
    logger.info("run folder %s; Python %s, %s", folder.path, platform.python_version(), versions)
    logger.info("%s", describe_device(device))
    _log_sharing(params)
    for note in notes:
        logger.info("%s", note)


def _log_sharing(params: Params) -> None:
    """What it means that there are several processes, or that there is one."""
    if (processes := this_process().world_size) > 1:
        logger.info("one of %d processes, each with a device of its own", processes)
        if params.model_params.spectral_trans:
            logger.info("the spectral transform sees the batch of each process apart")
        return
    for name in ("sync_bn", "gather_embeddings"):
        if getattr(params, name):
            logger.info("%s: no effect with one process", name)
