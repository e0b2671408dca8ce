"""What train.py's operations do, each from validated params to the end."""

import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from config.load import OPERATION, load_params, operation_of
from config.params import Params
from data.dataset import summary_table
from data.lmdb.writing import pack_dataset
from data.samples import sorted_pids
from data.synthetic import make_synthetic
from engine.alike import check_machines
from engine.gan.mixing import check_mixing, describe_mixing
from engine.gan.run import GENERATOR
from engine.gan.sampling import write_samples
from engine.launch import launch, needs_launch, process_group
from engine.outline import describe_training
from engine.reid import REID
from engine.run import Kind, lock_run, train_run
from engine.run_folder import RunFolder, is_run, open_run_folder, run_folder, write_params
from engine.teacher import load_teacher
from engine.training import read_training_data, start_network
from evaluate.core.plugins import plugin_options
from utils.checkpoint import is_finished
from utils.device import choose_device, describe_device
from utils.distributed import broadcast_from_rank0, fail_together, this_process
from utils.errors import DataError, ParamsError
from utils.memory import keep_freed_memory
from utils.process import num_restarts

NEEDED_TO_SAMPLE = ("batches_dir", "gan_params.condition")
"""Keys that say where what a conditioned generator needs lies; it may have been moved since."""

logger = logging.getLogger(__name__)


@contextmanager
def process_group_for_training(params: Params) -> Iterator[torch.device]:
    """As `process_group`, with what must be set before anything large is put on the device."""
    with process_group(params.parallels, deterministic=params.deterministic) as device:
        if device.type == "cpu" and params.keep_freed_memory:
            keep_freed_memory()
        check_machines(params, device)
        yield device


def start_train(params: Params, name: str, notes: Sequence[str]) -> None:
    """Train a new run in `working_dir/name`. A start that fails leaves no folder behind.

    With several GPUs in `parallels` the command starts itself once for each. Started once more by torchrun, because a
    process died, the run goes on.
    """
    _start(REID, params, name, notes)


def train_gan(params: Params, name: str, notes: Sequence[str]) -> None:
    """Train a person generator in `working_dir/name`, on one device.

    Raises:
        ParamsError: `parallels` names several, or generated images are to be mixed in.
    """
    if len(params.parallels) > 1:
        raise ParamsError(f"parallels: train_gan trains on one device, got {len(params.parallels)}; name one")
    if params.gan_params.mix_ratio > 0:
        raise ParamsError("gan_params.mix_ratio: is for start_train, where a re-ID network learns; set 0 for train_gan")
    _start(GENERATOR, params, name, notes)


def _start(kind: Kind, params: Params, name: str, notes: Sequence[str]) -> None:
    if needs_launch(params.parallels):
        raise SystemExit(launch(len(params.parallels)))
    with process_group_for_training(params) as device:
        folder = run_folder(params.working_dir, broadcast_from_rank0(name))
        is_new = not broadcast_from_rank0(num_restarts() > 0 and _began_with(folder, params))
        with lock_run(folder):
            if broadcast_from_rank0(not is_new and is_finished(folder.path)):
                logger.info("%s: this run is finished", folder.path)
                return
            if is_new:
                with fail_together():
                    if this_process().is_rank_zero:
                        write_params(folder, params, kind.operation)
            train_run(kind, folder, params, device, notes, is_new=is_new)


def resume_train(name: str, overrides: Sequence[str]) -> None:
    """Go on with `working_dir/name` from its last saved step, with its own params.

    Raises:
        ParamsError: an override other than working_dir is given; a run goes on as it began.
        DataError: there is no such run, it is finished, or its state does not fit.
        LockedError: it is being trained.
    """
    folder = open_run_folder(_working_dir(overrides), name)
    kind = _kind_of(folder)
    params, notes = load_params(folder.params, plugin_options=plugin_options)
    if not is_finished(folder.path) and needs_launch(params.parallels):
        raise SystemExit(launch(len(params.parallels)))
    with process_group_for_training(params) as device:
        # Before the lock as well, which a folder that is kept read-only would refuse.
        _refuse_finished(folder)
        with lock_run(folder):
            _refuse_finished(folder)
            train_run(kind, folder, params, device, notes, is_new=False)


def sample_gan(name: str, overrides: Sequence[str], out: Path, count: int) -> None:
    """Write pictures of the generator of `working_dir/name`.

    Raises:
        ParamsError: an override is given other than where something lies: working_dir, or what a conditioned generator
            needs, batches_dir and gan_params.condition.
        DataError: there is no such run, or no generator in it.
    """
    folder, params = run_changed(name, overrides, NEEDED_TO_SAMPLE)
    write_samples(folder.path, params, out, count, choose_device(params.parallels))


def run_changed(name: str, overrides: Sequence[str], changeable: Sequence[str]) -> tuple[RunFolder, Params]:
    """The run `working_dir/name` and its own params, some of them changed.

    Args:
        overrides: as of --set; besides what is changeable they may say working_dir.
        changeable: keys, or sections of keys.

    Raises:
        ParamsError: an override of another key.
        DataError: there is no such run.
    """
    changes = [
        override
        for override in overrides
        if any(f"{override.partition('=')[0]}.".startswith(f"{key}.") for key in changeable)
    ]
    others = [override for override in overrides if override not in changes]
    folder = open_run_folder(_working_dir(others, changeable), name)
    params, _ = load_params(folder.params, changes, plugin_options=plugin_options)
    return folder, params


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
    if chosen := check_mixing(params):
        logger.info("%s", describe_mixing(params, chosen))
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
    holds_run = is_run(folder)
    with tempfile.TemporaryFile() as messages:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, start_new_session=True
        )
        logger.info("starting in the background as process %d", child.pid)
        try:
            # The first state is saved when the first step is about to come. In a folder that holds a run, none begins.
            while holds_run or not (folder.last.exists() or is_finished(folder.path)):
                if child.poll() is not None:
                    messages.seek(0)
                    logger.error("%s", messages.read().decode().strip())
                    raise SystemExit(child.returncode)
                time.sleep(0.1)
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            raise
    print(f"training; its log: {folder.log}")


def _kind_of(folder: RunFolder) -> Kind:
    """What the run in a folder trains; folders of a time before they said so hold re-ID runs."""
    operation = operation_of(folder.params) or REID.operation
    kinds = {kind.operation: kind for kind in (REID, GENERATOR)}
    if operation not in kinds:
        known = " or ".join(kinds)
        raise DataError(f"{folder.params}: {OPERATION}: no run is begun with {operation!r}; expected {known}")
    return kinds[operation]


def _began_with(folder: RunFolder, params: Params) -> bool:
    """Whether the folder holds a run of these very params; one of others is not what torchrun starts again."""
    return is_run(folder) and load_params(folder.params, plugin_options=plugin_options)[0] == params


def _refuse_finished(folder: RunFolder) -> None:
    if broadcast_from_rank0(is_finished(folder.path)):
        raise DataError(f"{folder.path}: this run is finished; there is nothing to resume")


def _working_dir(overrides: Sequence[str], changeable: Sequence[str] = ()) -> str:
    """The folder of runs that --set working_dir=DIR names, by default that of Params; `changeable` is for messages."""
    working_dir = Params().working_dir
    for override in overrides:
        key, _, value = override.partition("=")
        if key != "working_dir":
            allowed = ", ".join(["working_dir", *changeable])
            raise ParamsError(f"--set {override}: a run has the params it began with; only {allowed} may be set")
        working_dir = value
    return working_dir
