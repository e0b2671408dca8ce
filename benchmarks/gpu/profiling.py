"""Where the time of a training step goes: the host's work, the device's, and the longest kernels."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import measured, synchronize
from benchmarks.report import Row
from config.params import Params
from engine.batches import TrainBatch
from engine.build import build_trainer
from engine.run import RunFolder
from engine.trainer import ReidTrainer
from utils.device import make_ready

WARM_UP = 8  # steps; CUDA graphs are captured in the first few


class Kernel(NamedTuple):
    """All calls of one kernel, on the CPU of one operation."""

    name: str
    calls: float  # a step
    milliseconds: float  # a step


class StepProfile:
    """A training, of which single steps are measured. To be built in a process of its own.

    Args:
        params: content of a params.json.
        run: the folder of the run, which is made.
        device: "cpu" or "cuda".
    """

    def __init__(self, params: dict[str, Any], run: Path, device: str) -> None:
        self.params = Params.model_validate_json(json.dumps(params))
        self.folder = RunFolder(str(run.parent), run.name)
        self.device = torch.device("cuda", 0) if device == "cuda" else torch.device("cpu")
        run.mkdir(parents=True)
        make_ready(self.device, deterministic=self.params.deterministic)

    def measure(self, steps: int) -> tuple[Row, list[Kernel]]:
        """The times of a step, and its kernels, the longest first.

        First step: with compilation. Host: from an idle device until the step has been queued. Device: the sum of its
        kernels; none on the CPU.
        """
        step = steps_of(build_trainer(self.params, self.folder, self.device))

        def milliseconds(number: int, wait: Callable[[], None] = lambda: None) -> float:
            total = 0.0
            for _ in range(number):
                wait()
                start = time.perf_counter()
                next(step)
                total += time.perf_counter() - start
            return 1e3 * total / number

        def finish() -> None:
            synchronize(self.device)

        row: Row = {"first step, s": measured(lambda: next(step), self.device)[1].seconds}
        measured(lambda: milliseconds(WARM_UP), self.device)
        row["ms a step"] = 1e3 * measured(lambda: milliseconds(steps), self.device)[1].seconds / steps
        row["host ms"] = milliseconds(steps, finish)
        finish()
        on_gpu = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiled:
            milliseconds(steps)
            finish()
        kernels = kernels_of(profiled.key_averages(), steps, self.device.type)
        if on_gpu:
            row["device ms"] = sum(kernel.milliseconds for kernel in kernels)
            row["kernels a step"] = sum(kernel.calls for kernel in kernels)
        return row, kernels


def steps_of(trainer: ReidTrainer) -> Iterator[list[TrainBatch]]:
    """Takes a training step whenever it is asked for the next; does not end."""
    for epoch in count():
        trainer.epoch = epoch
        trainer.meter.begin_epoch()
        trainer.begin_epoch()
        for batches in trainer.load_steps():
            trainer.train_step(batches)
            trainer.step += 1
            yield batches


def kernels_of(averages: Any, steps: int, device: str) -> list[Kernel]:
    """Kernels by name from a profile's `key_averages()`; of the CPU, operations without those that they call."""
    if device == "cuda":
        on_device = [each for each in averages if each.device_type.name == "CUDA" and not each.is_user_annotation]
        times = [(each, each.self_device_time_total) for each in on_device]
    else:
        times = [(each, each.self_cpu_time_total) for each in averages]
    kernels = [Kernel(each.key, each.count / steps, time / 1e3 / steps) for each, time in times]
    return sorted(kernels, key=lambda kernel: -kernel.milliseconds)
