"""The first half hour on a GPU: whether everything runs there and is right, and how fast.

    python -m benchmarks.gpu --step 1
    python -m benchmarks.gpu --step 2 5 --out benchmarks/results/gpu
    python -m benchmarks.gpu --step 4 --settings 3 4
    python -m benchmarks.gpu --step 9 --data market.lmdb --set pretrain_snapshot=weights.pth
    python -m benchmarks.gpu --step 1 2 3 4 5 6 7 8 9 --device cpu --toy --compile off

Each step is a process of its own with a time limit, and writes OUT_stepN.md and OUT_stepN.json after every row: what
fails, or finds no time, does not keep the rest from being measured. `--minutes` limits the whole command. The last
example rehearses all steps on the CPU with small networks and few images. What steps 3, 4, 6 and 8 compile is alike,
and cached on the machine: run them one after another. Linux only. Steps:

"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gpu import checks, speeds
from benchmarks.gpu.speeds import LONG_EPOCHS, MARKET_IMAGES, MARKET_TEST_IMAGES
from benchmarks.gpu.steps import FAILED, Rows, run_step
from benchmarks.report import Report
from benchmarks.speed import SETTINGS
from benchmarks.trainings import ROOT
from utils.cli import exit_code_of, whole_number
from utils.errors import ParamsError
from utils.logs import log_to_screen


class Step(NamedTuple):
    """One step; `note` explains its columns, `minutes` are its limit."""

    title: str
    minutes: float
    work: Callable[[Rows, argparse.Namespace], None]
    note: str


STEPS = (
    Step("the tests for GPUs", 7, checks.run_tests, ""),
    Step(
        "deterministic trainings, generated images",
        6,
        checks.train_twice,
        "Seconds: of the last process, with its start.",
    ),
    Step(
        "where the time of a step goes",
        7,
        speeds.profile_steps,
        "First step: with compilation. ms a step: of steps in a row. Host: from an idle device until a step is queued. "
        "Device: the sum of its kernels. On the CPU the longest operations, without those that they call.",
    ),
    Step("speed beside the textbook loop", 8, speeds.compare_speeds, "Images/s of every epoch but the first."),
    Step("params.json as shipped", 4, speeds.train_as_shipped, "Seconds in all: of the process, evaluations included."),
    Step("float16 and bfloat16", 6, speeds.compare_formats, "Images/s of every epoch but the first."),
    Step(
        "exactness, ranking and re-ranking",
        5,
        checks.compare_with_cpu,
        "Difference: the largest of a metric from the CPU's.",
    ),
    Step(
        "loss curves of number formats",
        8,
        checks.compare_losses,
        "Mean loss of the steps since the column before. Difference at the end: of the last column from that of the "
        "first row; rows of other seeds show how much is noise.",
    ),
    Step(
        "a recipe from start to end",
        8,
        speeds.train_recipe,
        f"Minutes of {LONG_EPOCHS} epochs: extrapolated to {MARKET_IMAGES:,} training and {MARKET_TEST_IMAGES:,} test "
        "images with an evaluation every 5 epochs, start and compilation included.",
    ),
)


def main(argv: Sequence[str]) -> None:
    """Take the steps, and write a report of each."""
    args = parse_arguments(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ParamsError("--device cuda: there is no CUDA device on this machine; rehearse with --device cpu --toy")
    end = time.monotonic() + 60 * args.minutes
    failures = 0
    for number in args.step:
        step = STEPS[number - 1]
        start = time.monotonic()
        report = Report(f"GPU step {number}: {step.title}{' (rehearsal)' if args.toy else ''}", args.device)
        out = args.out and args.out.with_name(f"{args.out.name}_step{number}")
        print(report.title, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
            args.folder = Path(folder)
            seconds = max(0.0, min(60 * step.minutes, end - start))
            run_step(step.work, args, seconds, report, lambda report=report, out=out: out and report.write(out))
        report.notes += [step.note, f"{(time.monotonic() - start) / 60:.1f} minutes."]
        report.save(out)
        failures += sum(FAILED in row for rows in report.tables.values() for row in rows)
    if failures:
        print(f"{failures} failed", file=sys.stderr)
        raise SystemExit(1)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    lines = [f"  {number}  {step.title} (at most {step.minutes} minutes)" for number, step in enumerate(STEPS, 1)]
    parser = argparse.ArgumentParser(
        description=str(__doc__) + "\n".join(lines), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    setting = whole_number(1, len(SETTINGS))
    parser.add_argument("--step", nargs="+", type=whole_number(1, len(STEPS)), required=True, help="one or several")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all steps together; default: 9")
    parser.add_argument("--settings", nargs="+", type=setting, default=[2, 1], help="of steps 3 and 4; default: 2 1")
    parser.add_argument("--compile", nargs="+", choices=("off", "on", "graphs"), default=["off", "on", "graphs"])
    parser.add_argument("--tests", nargs="+", type=Path, default=[ROOT / "tests" / "gpu"], help="of step 1")
    parser.add_argument("--data", type=Path, help="data set of step 9, a folder or .lmdb; default: synthetic")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/seed/pcb6_global_gtri016_rb6.json")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the recipe of step 9")
    parser.add_argument("--toy", action="store_true", help="small networks and few images")
    parser.add_argument("--out", type=Path, help="write OUT_stepN.md and OUT_stepN.json")
    return parser.parse_args(argv)


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
