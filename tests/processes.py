"""Runs a function in several real processes that form a process group, as the processes of one training do."""

import faulthandler
import os
import pickle
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed
from torch.multiprocessing.spawn import start_processes

from tests.preloaded import preloaded_context

T = TypeVar("T")


def run_in_processes(
    function: Callable[..., T], world_size: int, *arguments: object, timeout: float = 300.0
) -> list[T]:
    """Call `function(*arguments)` in each of `world_size` processes of one gloo process group on the CPU.

    The processes are preloaded ones with one thread each, in which warnings are errors. They have torchrun's variables
    RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, so that `this_process()` tells them apart.

    Args:
        function: at the top level of a module, as the processes import it.
        world_size: number of processes.
        arguments: the same for all; picklable.
        timeout: seconds from the start after which the processes are ended.

    Returns:
        What the function returned in each process, picklable, by rank.

    Raises:
        TimeoutError: some process was not done in time; says where each stood.
        torch.multiprocessing.ProcessRaisedException: the function failed in a process; holds that traceback.
        torch.multiprocessing.ProcessExitedException: a process ended by itself or was killed.
    """
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        context = start_processes(
            _in_process,
            (world_size, folder, timeout, function, arguments),
            world_size,
            join=False,
            start_method=preloaded_context().get_start_method(),
        )
        assert context is not None
        processes: list[BaseProcess] = context.processes  # pyright: ignore[reportAssignmentType]
        try:
            while not context.join(timeout=max(0.0, deadline - time.monotonic())):
                if time.monotonic() >= deadline:
                    _end(processes)
                    stood = "\n".join(path.read_text() for path in sorted(folder.glob("*.stood")))
                    text = f"not done after {timeout:g} seconds in {world_size} processes"
                    raise TimeoutError(f"{function.__name__}: {text}\n{stood}")
        finally:
            _end(processes)
        return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(world_size)]


def _end(processes: Sequence[BaseProcess]) -> None:
    """End those that still run."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(timeout=10)
        process.kill()
        process.join()


def _in_process(
    rank: int,
    world_size: int,
    folder: Path,
    timeout: float,
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    """One of the processes: leaves its pickled result in the folder."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    for variable, value in (("RANK", rank), ("WORLD_SIZE", world_size)):
        os.environ[variable] = os.environ[f"LOCAL_{variable}"] = str(value)
    distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", timeout=timedelta(seconds=timeout), rank=rank, world_size=world_size
    )
    with (folder / f"{rank}.stood").open("w") as stood:
        # Writes where the process stands, and then ends it.
        faulthandler.register(signal.SIGTERM, stood, chain=True)
        result = function(*arguments)
        # Not after a failure: the others would see the connection closed, and theirs could be the failure reported.
        distributed.barrier()
        faulthandler.unregister(signal.SIGTERM)
    distributed.destroy_process_group()
    (folder / str(rank)).write_bytes(pickle.dumps(result))
