"""Starts processes: one for each device, as torchrun does, or the command itself in the background."""

import logging
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from engine.run import RunFolder, is_run
from utils.checkpoint import is_finished
from utils.cli import FAILURE, INTERRUPTED, TERMINATED, USER_MISTAKE
from utils.device import choose_device, make_ready
from utils.distributed import init_process_group
from utils.process import is_launched

logger = logging.getLogger(__name__)

TORCH_LOGGERS = ("torch.distributed.elastic", "torch.distributed.run")


def needs_launch(parallels: Sequence[int]) -> bool:
    """Whether this process has to start one process per device.

    Raises:
        ParamsError: one of the devices does not exist.
    """
    if len(parallels) < 2 or is_launched():
        return False
    choose_device(parallels)
    return True


@contextmanager
def process_group(parallels: Sequence[int], *, deterministic: bool = False) -> Iterator[torch.device]:
    """This process's device, among the other processes of its run.

    Args:
        parallels: GPUs of the run on this machine.
        deterministic: whether the same work must give the same bits each time.

    Raises:
        ParamsError: there is no such device.
    """
    device = choose_device(parallels)
    make_ready(device, deterministic=deterministic)
    with init_process_group(device):
        yield device


def launch(num_processes: int, command: Sequence[str] = ()) -> int:
    """Run a command, by default this process's own, in several processes that are joined as torchrun joins them.

    Returns:
        The exit code of all: that of the first to fail. A killed process is logged.
    """
    command = command or sys.orig_argv
    # Each process reports its own failure; torch's table would only repeat it.
    for name in TORCH_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        run_id=uuid.uuid4().hex,
    )
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        return _exit_code(error)
    except SignalException as error:
        return INTERRUPTED if error.sigval == signal.SIGINT else TERMINATED
    return 0


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
            # The first state is saved right before the first step. A folder that holds a run already is refused.
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


def _exit_code(error: ChildFailedError) -> int:
    """That of the process that failed by itself; the others were stopped because of it."""
    failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
    codes = [failure.exitcode for _, failure in failures]
    if INTERRUPTED in codes or -signal.SIGINT in codes:
        return INTERRUPTED
    if {*codes} <= {TERMINATED, -signal.SIGTERM}:
        return TERMINATED
    if USER_MISTAKE in codes:
        return USER_MISTAKE
    rank, first = failures[0]
    if first.exitcode < 0:
        name = signal.Signals(-first.exitcode).name
        logger.error("process %d was killed (%s), and the others were stopped with it", rank, name)
    return FAILURE
