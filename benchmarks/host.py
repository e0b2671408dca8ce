"""What a training step costs the host beside the network: what a GPU waits for where a network is small.

    python -m benchmarks.host [--params params.json] [--steps 200] [--out benchmarks/results/host_here]

Trains with the given params on the CPU, with batches of eight images of a few pixels and a network that has all
parameters and buffers but computes nothing: what remains is the host's work around the network, as arithmetic takes no
time at these sizes. Milliseconds of the main thread's CPU time a step.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import Report
from benchmarks.trainings import ROOT
from config.load import load_params
from data.synthetic.dataset import make_synthetic
from data.synthetic.options import SyntheticOptions
from engine.batches import TrainBatches
from engine.build import build_trainer
from engine.meter import Meter
from engine.run import RunFolder
from engine.step import Stepper
from engine.trainer import ReidTrainer
from evaluate.core.plugins import plugin_options
from losses.criterion import Criterion
from models.outputs import BranchOutput, ClassScores
from utils.buffers import BufferSnapshot
from utils.cli import exit_code_of
from utils.logs import log_to_screen

IMAGES = SyntheticOptions(train_identities=60, test_identities=2, distractors=0, junk=0)
HEIGHT, WIDTH = 16, 8
BATCH = ("batch_sampling_params.P=4", "batch_sampling_params.K=2")
WARM_UP = 20  # steps
PARTS: dict[str, tuple[type, str]] = {
    "augmentation": (TrainBatches, "_augmented"),
    "losses, forward": (Criterion, "forward"),
    "finite check": (Stepper, "_are_finite"),
    "buffers kept": (BufferSnapshot, "take"),
    "buffers restored": (BufferSnapshot, "restore_unless"),
    "optimizer": (torch.optim.SGD, "step"),
    "meter": (Meter, "add"),
}


class FreeNetwork(torch.autograd.Function):
    """Outputs of the network's sizes, and a gradient for each of its parameters, without any arithmetic."""

    @staticmethod
    def forward(ctx: Any, outputs: list[Tensor], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.gradients = [torch.zeros(1) for _ in parameters]
        return tuple(output.detach() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, *ctx.gradients


def main(argv: Sequence[str]) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=ROOT / "params.json")
    parser.add_argument("--steps", type=int, default=200, help="default: 200")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="host-") as name:
        make_synthetic(Path(name) / "images", IMAGES)
        settings = [f"batches_dir={name}/images", f"working_dir={name}", "evaluation_params.type=null", *BATCH]
        params = load_params(args.params, settings, plugin_options=plugin_options).params
        params = params.model_copy(update={"img_h": HEIGHT, "img_w": WIDTH, "epoch": 10**6, "data_cache": "ram"})
        trainer = build_trainer(params, RunFolder(name, "run"), torch.device("cpu"))
    make_free(trainer)
    report = Report(f"Work around the network of {args.params.name}, {args.steps} steps")
    report.tables[""] = [
        {"": name, "ms a step, median": 1000 * statistics.median(seconds), "least": 1000 * min(seconds)}
        for name, seconds in measure(trainer, args.steps).items()
    ]
    report.save(args.out)


def make_free(trainer: ReidTrainer) -> None:
    """Replace the network's arithmetic by `FreeNetwork`, and its parameters by single numbers."""
    network, batch = trainer.network, trainer.params.batch_images
    sizes = network.sizes
    parameters = list(network.parameters())
    for parameter in parameters:
        parameter.data = torch.zeros(1)
    fixed = [
        torch.randn(num_parts, batch, size)
        for num_parts, _ in sizes.branches.values()
        for size in (2, 2, sizes.num_classes)
    ]

    def forward(images: Tensor, spectral: bool = False, camids: Tensor | None = None) -> dict[str, BranchOutput]:
        outputs = iter(FreeNetwork.apply(fixed, *parameters))
        branches = ((next(outputs), next(outputs), ClassScores(next(outputs), None)) for _ in sizes.branches)
        return {name: BranchOutput(*branch) for name, branch in zip(sizes.branches, branches, strict=True)}

    network.forward = forward


def measure(trainer: ReidTrainer, num_steps: int) -> dict[str, list[float]]:
    """Seconds of the main thread's CPU time of each step: the whole without the network, and its parts."""
    of_network = _network_alone(trainer)
    spent: dict[str, float] = defaultdict(float)
    for name, (owner, method) in PARTS.items():
        setattr(owner, method, _timed(getattr(owner, method), name, spent))
    steps: dict[str, list[float]] = defaultdict(list)
    trainer.begin_epoch()
    while trainer.step < WARM_UP + num_steps:
        trainer.epoch = trainer.step // trainer.plan.steps_per_epoch
        start = time.thread_time()
        for batches in islice(trainer.load_steps(), WARM_UP + num_steps - trainer.step):
            trainer.train_step(batches)
            trainer.step += 1
            if trainer.step % trainer.params.log_every == 0:
                trainer.meter.collect()
            now = time.thread_time()
            if trainer.step > WARM_UP:
                for name, seconds in {"all": now - start - of_network, **spent}.items():
                    steps[name].append(seconds)
            start = now
            spent.clear()
    return steps


def _network_alone(trainer: ReidTrainer) -> float:
    """Seconds of a forward and a backward pass of the network that computes nothing, which belong to no part."""
    parameters = list(trainer.network.parameters())
    gradient = torch.ones_like(next(iter(trainer.network(torch.empty(0), False).values())).features)
    seconds = []
    for _ in range(200):
        start = time.thread_time()
        output = trainer.network(torch.empty(0), False)
        for parameter in parameters:
            parameter.grad = None
        output[next(iter(output))].features.backward(gradient)
        seconds.append(time.thread_time() - start)
    return min(seconds)


def _timed(method: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.thread_time()
        try:
            return method(*args, **kwargs)
        finally:
            spent[name] += time.thread_time() - start

    return call


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
