"""How fast the framework loads, trains and embeds, beside the same work as most tutorials write it.

    python -m benchmarks.speed [--device cuda] [--parts steps --settings 1] [--out benchmarks/results/speed_here]

Parts: "pipeline", images per second of all that stands before the network, by stage and in total; "steps", examples
per second of training steps, in several number formats and layouts, compiled and not, with their memory and how near
they are to what the device can do; "extraction", images per second from files to embeddings; "curve", the loss in bf16
and in fp32 (by default on a GPU only). The textbook does the same work in the same run, in turn with ours: Pillow and
torchvision image by image in a DataLoader, float32, a list of part heads. Each contestant has a process of its own.
What fails is reported in its row, the rest goes on, and the exit code is 1. Writes OUT.json (every figure) and OUT.md
(the tables) after each part and setting. Linux only.
"""

import argparse
import logging
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.evaluation import hardware
from benchmarks.speed_ceiling import Ceiling, CeilingMeter
from benchmarks.speed_contestant import Contestant
from benchmarks.speed_parts import (
    Early,
    Task,
    measure_curve,
    measure_extraction,
    measure_pipeline,
    measure_steps,
    start_compiled,
)
from benchmarks.speed_settings import CPU_PLAN, CUDA_PLAN, Plan, Variant, formats, image_options, quick
from benchmarks.speed_tables import report_table
from data.synthetic import make_synthetic
from utils.cli import FAILURE, exit_code_of
from utils.errors import ParamsError
from utils.files import write_json, write_text
from utils.logs import log_to_screen
from utils.process import num_cpus

logger = logging.getLogger(__name__)

PARTS = ("pipeline", "steps", "extraction", "curve")


def main(argv: Sequence[str]) -> None:
    """Measure part by part; exits with code 1 in the end if something failed."""
    args = parse_arguments(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ParamsError("--device cuda: there is no CUDA device on this machine")
    plan = plan_of(args)
    report: dict[str, Any] = {
        "date": date.today().isoformat(),
        "hardware": hardware(args.device),
        "versions": versions(args.device),
        "quick": args.quick,
    }
    out = args.out or Path("benchmarks/results") / f"speed_{device_name(args.device)}"
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="speed-")))
        images = make_synthetic(folder / "images", image_options(plan.identities))
        device = "cuda:0" if args.device == "cuda" else "cpu"
        measure(Task(plan, images, device, args.workers), args.parts, report, lambda: write(out, report))
    print(report_table(report))
    if failures := errors_in(report):
        logger.error("failed: %s", "; ".join(failures))
        sys.exit(FAILURE)


def measure(task: Task, parts: Sequence[str], report: dict[str, Any], save: Callable[[], None]) -> None:
    """Put the parts' results into the report, one by one, and save it after each."""

    def add(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        logger.info("%s ...", name)
        try:
            return work()
        except Exception as error:
            # A part that fails must not cost the results of the others, on a machine lent for minutes least of all.
            logger.error("%s: %s", name, traceback.format_exc())
            return {"error": f"{type(error).__name__}: {error}"}

    with ExitStack() as stack:
        early, ceiling = Early({}, {}), None
        if "steps" in parts:
            report["ceiling"] = add("ceilings", lambda: measure_ceilings(task)._asdict())
            ceiling = None if "error" in report["ceiling"] else Ceiling(**report["ceiling"])
            if task.is_gpu:
                logger.info("compiling ...")
                early = start_compiled(task)
                for contestant in early.contestants.values():
                    stack.enter_context(contestant)
        if "pipeline" in parts:
            report["pipeline"] = add("pipeline", lambda: measure_pipeline(task))
            save()
        for setting in task.plan.settings if "steps" in parts else ():
            name = f"{setting.model}, {setting.name}"
            steps = add(name, lambda setting=setting: measure_steps(task, setting, early, ceiling))
            report.setdefault("steps", []).append({**asdict(setting), **steps})
            save()
        for part, work in (("extraction", measure_extraction), ("curve", measure_curve)):
            if part in parts:
                report[part] = add(part, lambda work=work: work(task))
                save()


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if on_gpu else "cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all; on the CPU without the curve")
    parser.add_argument(
        "--settings", nargs="+", type=int, metavar="N", help="which settings' steps, from 1; default: all"
    )
    parser.add_argument(
        "--workers", type=int, default=num_cpus(), help="of the textbook's loaders; default: one a core"
    )
    parser.add_argument("--compile", action="store_true", help="on the CPU too; that takes a minute for each setting")
    parser.add_argument("--bf16", action="store_true", help="on the CPU too; slow on one without such instructions")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, whose figures say nothing")
    parser.add_argument("--out", type=Path, help="results without suffix; default: benchmarks/results/speed_DEVICE")
    args = parser.parse_args(argv)
    settings = (CUDA_PLAN if args.device == "cuda" else CPU_PLAN).settings
    for number in args.settings or ():
        if not 1 <= number <= len(settings):
            parser.error(f"argument --settings: there are {len(settings)}, got {number}")
    if args.workers < 1:
        parser.error(f"argument --workers: at least 1 expected, got {args.workers}")
    args.parts = args.parts or (PARTS if args.device == "cuda" else PARTS[:-1])
    return args


def plan_of(args: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    plan = CUDA_PLAN if args.device == "cuda" else CPU_PLAN
    if args.settings:
        plan = replace(plan, settings=tuple(plan.settings[number - 1] for number in args.settings))
    if args.device == "cpu":
        asked = {
            Variant("bf16", feeds=("resident",)): args.bf16,
            Variant("fp32", "on", feeds=("resident",)): args.compile,
        }
        plan = replace(plan, variants=(*plan.variants, *(variant for variant, wanted in asked.items() if wanted)))
    return quick(plan) if args.quick else plan


def measure_ceilings(task: Task) -> Ceiling:
    """What the device can do at most, measured in a process that ends before anything else begins."""
    with Contestant("ceilings", CeilingMeter, task.device) as meter:
        return meter.ask("measure", formats(task.plan.variants), task.plan.quick)


def errors_in(report: Any, where: str = "") -> list[str]:
    """Every error in a report, with the name of its row."""
    if isinstance(report, list):
        return [error for entry in report for error in errors_in(entry, where)]
    if not isinstance(report, dict):
        return []
    where = ", ".join(part for part in (where, report.get("name", "")) if part)
    found = [f"{where}: {report['error']}"] if "error" in report else []
    return found + [error for key, entry in report.items() for error in errors_in(entry, where or key)]


def write(out: Path, report: dict[str, Any]) -> None:
    """The figures and the tables."""
    write_json(out.with_name(f"{out.name}.json"), report)
    write_text(out.with_name(f"{out.name}.md"), report_table(report))


def device_name(device: str) -> str:
    """The device as a file name has it."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def versions(device: str) -> dict[str, str]:
    """Of what the figures depend on."""
    packages = {name: version(name) for name in ("torch", "torchvision", "pillow")}
    gpu = {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())} if device == "cuda" else {}
    return {"python": platform.python_version(), **packages, **gpu}


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
