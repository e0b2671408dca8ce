"""The operations of train.py, each from validated params to the end."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from config.load import OPERATION, load_params, operation_of, params_from_dict
from config.params import Params
from data.dataset import log_summary
from data.samples import sorted_camids
from engine.build import classes_of, read_training_data, start_network
from engine.consistency import check_environment
from engine.launch import launch, needs_launch, process_group
from engine.run import RunFolder, cleanup_on_failure, is_run, lock_run, open_run_folder, run_folder, write_params
from engine.schedules import build_schedule
from engine.summary import describe_training, log_environment, plan_training
from engine.teacher import load_teacher
from engine.trainer import Trainer
from evaluate.core.plugins import plugin_options
from utils.checkpoint import is_finished, load_checkpoint
from utils.device import choose_device, describe_device
from utils.distributed import broadcast_from_rank0, fail_together, this_process
from utils.errors import DataError, ParamsError
from utils.logs import log_to_file
from utils.memory import keep_freed_memory
from utils.process import num_restarts

logger = logging.getLogger(__name__)


class Task(NamedTuple):
    """What a run trains."""

    operation: str
    """The operation that starts such a run; its folder's params.json names it."""
    build: Callable[[Params, RunFolder, torch.device, bool], Trainer]
    """Reads the data and builds the trainer; True if it is to resume from a saved state."""


@contextmanager
def process_group_for(params: Params) -> Iterator[torch.device]:
    """The device of this process, among the other processes of the run.

    With several GPUs in `parallels` the command starts itself once for each, and this process ends with them.
    """
    if needs_launch(params.parallels):
        raise SystemExit(launch(len(params.parallels)))
    with process_group(params.parallels, deterministic=params.deterministic) as device:
        if device.type == "cpu" and params.keep_freed_memory:
            keep_freed_memory()
        check_environment(params, device)
        yield device


def start_run(task: Task, params: Params, name: str, notes: Sequence[str]) -> None:
    """Train a new run in `working_dir/name`. A start that fails leaves no folder behind.

    When torchrun starts the command again, because a process died, the run is resumed.
    """
    with process_group_for(params) as device:
        folder = run_folder(params.working_dir, broadcast_from_rank0(name))
        is_new = not broadcast_from_rank0(num_restarts() > 0 and began_with(folder, params))
        with lock_run(folder):
            if broadcast_from_rank0(not is_new and is_finished(folder.path)):
                logger.info("%s: this run is finished", folder.path)
                return
            if is_new:
                with fail_together():
                    if this_process().is_rank_zero:
                        write_params(folder, params, task.operation)
            _train(task, folder, params, device, notes, is_new=is_new)


def resume_train(tasks: Sequence[Task], name: str, overrides: Sequence[str]) -> None:
    """Resume `working_dir/name` from its last saved step, with its own params.

    Args:
        tasks: of which the run is one.
        name: of the run.
        overrides: of --set; only working_dir.

    Raises:
        ParamsError: another override is given; a run keeps its params.
        DataError: there is no such run, it is finished, or its state does not fit.
        LockedError: it is being trained.
    """
    folder = open_run_folder(_working_dir(overrides), name)
    task = _task_of(tasks, folder)
    params, notes = load_params(folder.params, plugin_options=plugin_options)
    # Before anything is started or locked, and again while no other process can train.
    _refuse_finished(folder)
    with process_group_for(params) as device, lock_run(folder):
        _refuse_finished(folder)
        _train(task, folder, params, device, notes, is_new=False)


def _train(
    task: Task, folder: RunFolder, params: Params, device: torch.device, notes: Sequence[str], *, is_new: bool
) -> None:
    """Build the trainer and train to the end; a run without a saved state starts from the beginning."""
    resume = broadcast_from_rank0(not is_new and folder.last.is_file())
    with cleanup_on_failure(folder, params, is_new=is_new):
        if this_process().is_rank_zero:
            log_to_file(folder.log)
        log_environment(folder, params, device)
        for note in notes:
            logger.info("%s", note)
        trainer = task.build(params, folder, device, resume)
        if resume:
            trainer.resume()
        trainer.fit()


def load_run_with_changes(name: str, overrides: Sequence[str], changeable: Sequence[str]) -> tuple[RunFolder, Params]:
    """The run `working_dir/name` and its own params, some of them changed.

    Args:
        overrides: as of --set; besides what is changeable they may say working_dir.
        changeable: keys, or sections of keys.

    Raises:
        ParamsError: an override of another key.
        DataError: there is no such run.
    """
    changes, others = _parted(overrides, changeable)
    folder = open_run_folder(_working_dir(others, changeable), name)
    params, _ = load_params(folder.params, changes, plugin_options=plugin_options)
    return folder, params


def load_checkpoint_with_changes(path: Path, overrides: Sequence[str], changeable: Sequence[str]) -> Params:
    """The params in a checkpoint, some of them changed; as `load_run_with_changes`.

    Raises:
        ParamsError: an override of another key.
        DataError: the file is no checkpoint.
    """
    changes, others = _parted(overrides, changeable)
    if others:
        text = f"a checkpoint has the params it was trained with; only {', '.join(changeable)} may be set"
        raise ParamsError(f"--set {others[0]}: {text}")
    return params_from_dict(load_checkpoint(path).params, str(path), plugin_options, changes).params


def _parted(overrides: Sequence[str], changeable: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides of keys, or sections of keys, that may change, and the others."""
    changes = [
        override
        for override in overrides
        if any(f"{override.partition('=')[0]}.".startswith(f"{key}.") for key in changeable)
    ]
    return changes, [override for override in overrides if override not in changes]


def check_config(params: Params, notes: Sequence[str], check_extra_images: Callable[[Params], str]) -> None:
    """Print the resolved params, and describe the training with the data set they name.

    Args:
        params: of the run.
        notes: on the params.
        check_extra_images: checks where extra images come from; returns a line about them, "" if there are none.
    """
    for note in notes:
        logger.info("%s", note)
    print(params.model_dump_json(indent=2))
    device = choose_device(params.parallels)
    check_environment(params, device)
    dataset = read_training_data(params)
    pids, camids = classes_of(params, dataset.train), sorted_camids(dataset.train)
    start_network(params, len(pids), camids)  # the files it starts from are there and fit
    load_teacher(params, pids, device)
    if extra := check_extra_images(params):
        logger.info("%s", extra)
    plan = plan_training(params, dataset.train, device)
    schedule = build_schedule(params, plan.steps_per_epoch, plan.num_epochs * plan.steps_per_epoch)
    logger.info("%s\n%s", describe_device(device), describe_training(params, plan, schedule, len(pids), camids))


def make_synthetic_set(params: Params, notes: Sequence[str], out: Path) -> None:
    """Write the synthetic pedestrians of the params as a folder of their own."""
    from data.synthetic.dataset import make_synthetic

    for note in notes:
        logger.info("%s", note)
    make_synthetic(out, params.synthetic)
    logger.info('written: %s; train on it with --set batches_dir="%s"', out, out)


def build_lmdb(params: Params, notes: Sequence[str], out: Path) -> None:
    """Pack the data set of the params into one LMDB file."""
    from data.lmdb.writing import pack_dataset

    for note in notes:
        logger.info("%s", note)
    dataset = pack_dataset(out, params)
    log_summary(dataset, params)
    logger.info('written: %s, %.0f MiB; train on it with --set batches_dir="%s"', out, out.stat().st_size / 2**20, out)


def _task_of(tasks: Sequence[Task], folder: RunFolder) -> Task:
    """What the run in a folder trains; folders from before this was noted hold runs of the first task."""
    operation = operation_of(folder.params) or tasks[0].operation
    by_operation = {task.operation: task for task in tasks}
    if operation not in by_operation:
        known = " or ".join(by_operation)
        raise DataError(f"{folder.params}: {OPERATION}: no run is started with {operation!r}; expected {known}")
    return by_operation[operation]


def began_with(folder: RunFolder, params: Params) -> bool:
    """Whether the folder holds a run with these params."""
    return is_run(folder) and load_params(folder.params, plugin_options=plugin_options)[0] == params


def _refuse_finished(folder: RunFolder) -> None:
    if broadcast_from_rank0(is_finished(folder.path)):
        raise DataError(f"{folder.path}: this run is finished; there is nothing to resume")


def _working_dir(overrides: Sequence[str], changeable: Sequence[str] = ()) -> str:
    """The folder of runs that --set working_dir=DIR names, else the default; `changeable` is for messages."""
    working_dir = Params().working_dir
    for override in overrides:
        key, _, value = override.partition("=")
        if key != "working_dir":
            allowed = ", ".join(["working_dir", *changeable])
            raise ParamsError(f"--set {override}: a run has the params it began with; only {allowed} may be set")
        working_dir = value
    return working_dir
