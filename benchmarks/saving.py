"""How long training waits for its state to be saved.

    python -m benchmarks.saving [--rounds 6 --steps 10 --out benchmarks/results/saving_cpu]

Trains the shipped params on the synthetic pedestrians, with the objects of a run. Rounds without a save and rounds
whose first step is followed by one alternate. Three figures come of it: how long the loop stands still for a save (to
take the small tensors, and to wait until the large ones are copied), as a share of a step; how much longer the steps of
a round with a save are in all, as writing takes its part of the processors and of memory; and what that comes to per
step at the shipped `checkpoint.every_minutes`. Prints a table; with --out also writes JSON.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.evaluation import hardware
from config.load import load_params
from config.params import Params
from engine.batches import train_batches
from engine.operations import process_group_for_training
from engine.state_writer import StateWriter
from engine.train_batch import TrainBatch
from engine.training import Training, build_training, read_training_data
from evaluate.core.plugins import plugin_options
from utils.cli import exit_code_of
from utils.files import write_json
from utils.logs import log_to_screen

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 3


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write what was asked for."""
    args = parse_arguments(argv)
    params, _ = load_params(ROOT / "params.json", args.set, plugin_options=plugin_options)
    with process_group_for_training(params) as device:
        training = build_training(params, read_training_data(params), device)
        report = {
            "date": date.today().isoformat(),
            "hardware": hardware(device.type),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            **measure(training, args.rounds, args.steps),
        }
    if args.out is not None:
        write_json(args.out.with_suffix(".json"), report)
    print(table_of(report))


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="with a save, and as many without")
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override params")
    parser.add_argument("--out", type=Path, help="where to write JSON, without suffix")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.steps < 2:
        parser.error("--rounds: at least 1; --steps: at least 2, as the second waits for the copy")
    return args


def measure(training: Training, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds of every round, with and without a save, and of every standstill."""
    training.network.train()
    batch = next(train_batches(training, islice(training.batches(0), training.params.accumulate_steps)))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    standstills: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.pth"
        with StateWriter(path, training.device, lambda: None) as writer:
            for _ in range(WARM_UP):
                take_step(training, batch, writer)
            for number in range(rounds):
                # Forwards and backwards in turn: whatever drifts, drifts for both.
                for saves in (False, True) if number % 2 == 0 else (True, False):
                    elapsed, stood_still = take_round(training, batch, writer, steps, saves=saves)
                    seconds[saves].append(elapsed)
                    if saves:
                        standstills.append(stood_still)
            writer.finish()
            size = path.stat().st_size
    step = statistics.median(seconds[False]) / steps
    extra = statistics.median(seconds[True]) - statistics.median(seconds[False])
    between = 60 * training.params.checkpoint.every_minutes
    return {
        "model": training.params.model_params.model,
        "images": [training.params.batch_images, training.params.img_h, training.params.img_w],
        "steps_of_a_round": steps,
        "state_bytes": size,
        "seconds_without": seconds[False],
        "seconds_with": seconds[True],
        "standstill_seconds": standstills,
        "step_seconds": step,
        "standstill_per_step": statistics.median(standstills) / step,
        "extra_per_step": extra / step,
        "extra_at_shipped_interval": extra / between,
    }


def take_round(
    training: Training, batch: list[TrainBatch], writer: StateWriter, steps: int, *, saves: bool
) -> tuple[float, float]:
    """Seconds of so many steps, and how long they stood still for a save after the first."""
    writer.finish()
    start = time.perf_counter()
    stood_still = take_step(training, batch, writer)
    if saves:
        before = time.perf_counter()
        writer.write(training.state(), training.updated_tensors(), "")
        stood_still += time.perf_counter() - before
    for _ in range(steps - 1):
        stood_still += take_step(training, batch, writer)
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)
    return time.perf_counter() - start, stood_still


def take_step(training: Training, batch: list[TrainBatch], writer: StateWriter) -> float:
    """One step as a run takes it; seconds that it waited for a copy."""
    found = training.stepper.gradients(batch, training.step, spectral=False)
    before = time.perf_counter()
    writer.wait_until_copied()
    waited = time.perf_counter() - before
    training.stepper.update(found.finite)
    return waited


def table_of(report: dict[str, Any]) -> str:
    """A line of words and a table of one row."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    number, height, width = report["images"]
    standstill = 1000 * statistics.median(report["standstill_seconds"])
    return "\n".join(
        [
            f"{report['date']}; {report['hardware']}; {versions}; "
            f"medians of {len(report['seconds_with'])} rounds of {report['steps_of_a_round']} steps",
            "",
            "| network | state | step | standstill per save | share of a step | all a save costs, share of a step "
            f"| at one every {Params().checkpoint.every_minutes:g} minutes |",
            "|---|---:|---:|---:|---:|---:|---:|",
            f"| {report['model']}, {number} images of {height} x {width} | {report['state_bytes'] / 2**20:.0f} MiB "
            f"| {1000 * report['step_seconds']:.0f} ms | {standstill:.1f} ms "
            f"| {report['standstill_per_step']:.2%} | {report['extra_per_step']:.0%} "
            f"| {report['extra_at_shipped_interval']:.3%} |",
        ]
    )


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
