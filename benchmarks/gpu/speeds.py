"""The steps that measure speed on a GPU."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.jobs import FEW, PCB6, TOY_PARAMS, settings_of, shipped_job
from benchmarks.gpu.profiling import StepProfile
from benchmarks.gpu.steps import Rows
from benchmarks.measure import Contestant
from benchmarks.speed import TEXTBOOK, VARIANTS, Setting, make_images, ours, params_of, textbook
from benchmarks.trainings import Job
from config.load import load_params
from data.dataset import read_dataset
from data.synthetic.dataset import make_synthetic
from data.synthetic.options import SyntheticOptions
from evaluate.core.plugins import plugin_options

MARKET_IMAGES, MARKET_TEST_IMAGES, LONG_EPOCHS = 12_936, 19_281, 120


def profile_steps(rows: Rows, args: argparse.Namespace) -> None:
    """Host and device time of a step, eager, compiled and captured."""
    for setting, batch in settings_of(args, args.settings):
        images = make_images(args.folder / f"images {setting.name}", batch * (4 if args.toy else 48))
        for mode in args.compile:
            name = f"{setting.name}, compile={mode}"
            with rows.measuring(name) as row:
                params = params_of(setting, batch, {"compile": mode, "batches_dir": str(images)})
                with Contestant(StepProfile, params, args.folder / name / "run", args.device) as contestant:
                    times, kernels = contestant.ask("measure", 2 if args.toy else 20)
                row.update(times)
                for kernel in kernels[:8]:
                    cells = {"": f"`{kernel.name[:90]}`", "calls": kernel.calls, "ms": kernel.milliseconds}
                    rows.add(cells, f"Longest of {name}, a step")


def compare_speeds(rows: Rows, args: argparse.Namespace) -> None:
    """Trainings of settings in every variant beside the textbook's."""
    for setting, batch in settings_of(args, args.settings):
        variants = ("bf16", "bf16, compiled", "bf16, graphs")
        measure_speeds(rows, args, setting, batch, [TEXTBOOK, *variants])


def compare_formats(rows: Rows, args: argparse.Namespace) -> None:
    """float16 beside bfloat16, which compare_speeds measures compiled, too."""
    for setting, batch in settings_of(args, [PCB6]):
        measure_speeds(rows, args, setting, batch, ["bf16", "fp16", "fp16, compiled"])


def measure_speeds(rows: Rows, args: argparse.Namespace, setting: Setting, batch: int, names: Sequence[str]) -> None:
    """A row for each variant; ratios to the first."""
    images = make_images(args.folder / f"images {setting.name}", batch * (2 if args.toy else 48))
    length = argparse.Namespace(epochs=2 if args.toy else 5, device=args.device)
    base = 0.0
    for name in names:
        params = params_of(setting, batch, VARIANTS.get(name, {}))
        if params.get("compile", "off") not in args.compile:
            continue
        with rows.measuring(name, f"{setting.name}, batches of {batch}") as row:
            run = args.folder / f"{setting.name} {name}"
            found = (
                textbook(args.folder, images, params, length) if name == TEXTBOOK else ours(run, images, params, length)
            )
            row["images/s"], row["peak MiB"] = found.rates, found.peak_mib
            rate = sum(found.rates) / len(found.rates)
            if name == names[0]:
                base = rate
            row[f"times {names[0]}"] = rate / base if base else None


def train_as_shipped(rows: Rows, args: argparse.Namespace) -> None:
    """params.json with nothing changed but the compilation."""
    images = make_synthetic(args.folder / "images", FEW if args.toy else SyntheticOptions())
    for mode in args.compile:
        with rows.measuring(f"compile={mode}") as row:
            job = shipped_job(args, mode, images, f"compile={mode}")
            row["seconds in all"] = job.measure(args.device).seconds
            records = job.records()
            row["images/s"] = [record["examples_per_second"] for record in records[1:]]
            row.update({name: records[-1]["metrics"][name] for name in ("rank1", "mAP")})


def train_recipe(rows: Rows, args: argparse.Namespace) -> None:
    """A recipe with evaluation every 5 epochs; a row for each epoch as soon as it is done."""
    images = args.data or make_synthetic(args.folder / "images", FEW if args.toy else SyntheticOptions())
    settings = (f"batches_dir={images.absolute()}", f"working_dir={args.folder}", "imagenet_pretrain=false")
    changes = ("evaluation_params.every_epochs=5", *(TOY_PARAMS if args.toy else ()), *args.set)
    job = Job("recipe", args.recipe.absolute(), (*settings, *changes), args.folder)
    params, _ = load_params(job.params, job.settings, plugin_options=plugin_options)
    dataset = read_dataset(params)
    num_test = len(dataset.query) + len(dataset.gallery)
    start, shown = time.monotonic(), 0

    def show() -> None:
        nonlocal shown
        records = job.records() if (job.run / "metrics.jsonl").exists() else []
        for place, record in enumerate(records[shown:], shown + 1):
            row = {
                "": f"epoch {place}",
                "loss": sum(record["losses"].values()),
                "images/s": record["examples_per_second"],
            }
            accuracy = {name: record.get("metrics", {}).get(name) for name in ("rank1", "mAP")}
            images = params.batch_images * params.accumulate_steps * record["step"] // record["epoch"]
            long = long_minutes(records[:place], images, num_test, time.monotonic() - start)
            rows.add({**row, **accuracy, f"minutes of {LONG_EPOCHS} epochs": long})
        shown = len(records)

    with rows.measuring("whole training") as row:
        row["minutes"] = job.measure(args.device, show).seconds / 60


def long_minutes(records: Sequence[dict[str, Any]], images: int, num_test: int, elapsed: float) -> float | None:
    """Minutes that 120 epochs of Market-1501 would take with an evaluation every 5 epochs.

    Args:
        records: of the epochs done; the first is left out, as it may contain the compilation.
        images: of an epoch.
        num_test: images that an evaluation embeds.
        elapsed: seconds since the start.
    """
    evaluated = [record for record in records[1:] if "metrics" in record]
    if not evaluated:
        return None
    seconds = [record["seconds"] - images / record["examples_per_second"] for record in evaluated]
    evaluation = sum(seconds) / len(seconds) / num_test
    step = sum(1 / record["examples_per_second"] for record in records[1:]) / (len(records) - 1)
    start = elapsed - sum(record["seconds"] for record in records[1:]) - images * step
    total = start + LONG_EPOCHS * (MARKET_IMAGES * step + MARKET_TEST_IMAGES * evaluation / 5)
    return total / 60
