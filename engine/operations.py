"""What train.py's operations do, each from validated params to the end."""

import logging
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

from config.load import load_params
from config.params import Params
from data.dataset import summary_table
from data.lmdb_writing import pack_dataset
from data.samples import Dataset, sorted_pids
from data.synthetic import make_synthetic
from engine.alike import check_machines
from engine.fit import evaluate_network, fit
from engine.launch import joined, launch, needs_launch
from engine.outline import describe_training
from engine.recorder import Recorder
from engine.run_folder import RunFolder, create_run_folder, discard, is_run, open_run_folder
from engine.teacher import load_teacher
from engine.training import Training, build_training, read_training_data, start_network
from evaluate.core.plugins import plugin_options
from evaluate.core.table import metrics_table
from utils.agreement import agreed
from utils.checkpoint import is_finished
from utils.device import choose_device, describe_device
from utils.distributed import from_main, this_process
from utils.errors import DataError, ParamsError
from utils.logs import log_to_file
from utils.memory import keep_freed_memory
from utils.out_of_memory import out_of_memory_told
from utils.torchrun import num_restarts

logger = logging.getLogger(__name__)


def start_train(params: Params, name: str, notes: Sequence[str]) -> None:
    """Train a new run in `working_dir/name`. A start that fails leaves no folder behind.

    With several GPUs in `parallels` the command starts itself once for each. Started once more by torchrun, because a
    process died, the run goes on.
    """
    if needs_launch(params.parallels):
        raise SystemExit(launch(len(params.parallels)))
    with _joined(params) as device:
        name = from_main(name)
        folder = RunFolder(params.working_dir, name)
        if from_main(num_restarts() > 0 and is_run(params.working_dir, name)):
            if from_main(is_finished(folder.path)):
                logger.info("%s: this run is finished", folder.path)
                return
            _go_on(folder, params, device, notes)
            return
        with agreed():
            if this_process().is_main:
                create_run_folder(params, name)
        with _nothing_lost(folder, is_new=True):
            _begin(folder, params, device, notes)


def resume_train(name: str, overrides: Sequence[str]) -> None:
    """Go on with `working_dir/name` from its last finished epoch, with its own params.

    Raises:
        ParamsError: an override other than working_dir is given; a run goes on as it began.
        DataError: there is no such run, it is finished, or its state does not fit.
    """
    folder = open_run_folder(_working_dir(overrides), name)
    if is_finished(folder.path):
        raise DataError(f"{folder.path}: this run is finished; there is nothing to resume")
    params, notes = load_params(folder.params, plugin_options=plugin_options)
    if needs_launch(params.parallels):
        raise SystemExit(launch(len(params.parallels)))
    with _joined(params) as device:
        _go_on(folder, params, device, notes)


def check_config(params: Params, notes: Sequence[str]) -> None:
    """Print the resolved params, and what they amount to with the data set they name."""
    for note in notes:
        logger.info("%s", note)
    print(params.model_dump_json(indent=2))
    device = choose_device(params.parallels)
    check_machines(params, device)
    dataset = read_training_data(params)
    pids = sorted_pids(dataset.train)
    start_network(params, len(pids))  # the files it starts from are there and fit
    load_teacher(params, pids, device)
    logger.info("%s\n%s", describe_device(device), describe_training(params, dataset.train))


def make_synthetic_set(params: Params, notes: Sequence[str], out: Path) -> None:
    """Write the synthetic pedestrians of the params as a folder of their own."""
    for note in notes:
        logger.info("%s", note)
    make_synthetic(out, params.synthetic)
    logger.info('written: %s; train on it with --set batches_dir="%s"', out, out)


def build_lmdb(params: Params, notes: Sequence[str], out: Path) -> None:
    """Pack the data set of the params into one LMDB file."""
    for note in notes:
        logger.info("%s", note)
    dataset = pack_dataset(out, params)
    logger.info("data set %s\n%s", params.batches_dir, summary_table(dataset))
    logger.info('written: %s, %.0f MiB; train on it with --set batches_dir="%s"', out, out.stat().st_size / 2**20, out)


def detach(argv: Sequence[str], working_dir: str, name: str) -> None:
    """Run the same command in the background and return once it trains.

    Raises:
        SystemExit: it ended before; with its exit code, its message shown.
    """
    folder = RunFolder(working_dir, name)
    command = [sys.executable, sys.argv[0], *(word for word in argv if word != "--detach"), "--sub_working_dir", name]
    events_before = set(folder.path.glob("events.out.tfevents.*"))
    with tempfile.TemporaryFile() as messages:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, start_new_session=True
        )
        logger.info("starting in the background as process %d", child.pid)
        try:
            while set(folder.path.glob("events.out.tfevents.*")) == events_before:
                if child.poll() is not None:
                    messages.seek(0)
                    logger.error("%s", messages.read().decode().strip())
                    raise SystemExit(child.returncode)
                time.sleep(0.1)
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            raise
    print(f"training; its log: {folder.log}")


@contextmanager
def _joined(params: Params) -> Iterator[torch.device]:
    """As `joined`, with what must be set before anything large is put on the device."""
    with joined(params.parallels) as device:
        if device.type == "cpu" and params.keep_freed_memory:
            keep_freed_memory()
        check_machines(params, device)
        yield device


def _begin(folder: RunFolder, params: Params, device: torch.device, notes: Sequence[str]) -> None:
    """Train from the start."""
    _log_circumstances(folder, params, device, notes)
    dataset = read_training_data(params)
    logger.info("%s", describe_training(params, dataset.train))
    training = _build(params, dataset, device)
    untrained = None
    if params.evaluation_params.type is not None and params.evaluation_params.at_start:
        untrained = evaluate_network(training)
        logger.info("before training\n%s", metrics_table(untrained.metrics))
    # From here on there is something to resume.
    training.save(folder.last)
    with Recorder(folder) as recorder:
        if untrained is not None:
            recorder.evaluation(untrained, 0)
        fit(training, folder, recorder)


def _build(params: Params, dataset: Dataset, device: torch.device, *, resume: bool = False) -> Training:
    advice = 'set data_cache to "ram" if it is "device", or take a smaller model'
    with out_of_memory_told(f"putting the network and the images on {device}", advice):
        return build_training(params, dataset, device, resume=resume)


def _go_on(folder: RunFolder, params: Params, device: torch.device, notes: Sequence[str]) -> None:
    """Train from the last finished epoch; a run that was stopped before its first step begins anew."""
    is_begun = from_main(folder.last.is_file())
    with _nothing_lost(folder, is_new=False):
        _log_circumstances(folder, params, device, notes)
        training = _build(params, read_training_data(params), device, resume=is_begun)
        if is_begun:
            training.restore(folder.last)
        logger.info("resumed after epoch %d of %d", training.epoch, params.epoch)
        with Recorder(folder, (training.epoch, training.step)) as recorder:
            fit(training, folder, recorder)


@contextmanager
def _nothing_lost(folder: RunFolder, *, is_new: bool) -> Iterator[None]:
    """A new run stopped before training leaves no folder in the way of the next try; later it says how to go on."""
    try:
        yield
    except BaseException as error:
        if not this_process().is_main:
            raise
        if is_new and not (folder.last.exists() or folder.best.exists()):
            discard(folder)
        elif isinstance(error, KeyboardInterrupt) and folder.last.exists():
            elsewhere = "" if folder.working_dir == Params().working_dir else f" --set working_dir={folder.working_dir}"
            logger.info(
                "stopped; go on after the last finished epoch with: "
                "python train.py --operation resume_train --sub_working_dir %s%s",
                folder.name,
                elsewhere,
            )
        raise


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


def _log_circumstances(folder: RunFolder, params: Params, device: torch.device, notes: Sequence[str]) -> None:
    """Begin the run's train_log: versions, device, and what there is to say of the params."""
    if this_process().is_main:
        log_to_file(folder.log)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy", "Pillow"))
    logger.info("run folder %s; Python %s, %s", folder.path, platform.python_version(), versions)
    logger.info("%s", describe_device(device))
    _log_sharing(params)
    for note in notes:
        logger.info("%s", note)


def _working_dir(overrides: Sequence[str]) -> str:
    """The folder of runs that --set working_dir=DIR names, by default that of Params."""
    working_dir = Params().working_dir
    for override in overrides:
        key, _, value = override.partition("=")
        if key != "working_dir":
            raise ParamsError(
                f"--set {override}: a run goes on with the params it began with; only working_dir may be set"
            )
        working_dir = value
    return working_dir
