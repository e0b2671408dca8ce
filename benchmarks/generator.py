"""Train the person generator with several seeds and say how good, how varied and how steady its pictures are.

    python -m benchmarks.generator --measured_by runs/first --jobs 2 --out benchmarks/results/generator

Every training is a run of `train.py --operation train_gan` of its own; one that is finished already is not repeated.
Beside the runs stand distances that give the figures a scale: that of one half of the real images to the other, and
that of the real images to themselves blurred and with noise. Writes OUT.json, OUT.md and OUT.png, samples of the first
seed's best generator.
"""

import argparse
import json
import math
import platform
import shutil
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from benchmarks.ablation import hardware
from benchmarks.rows import resolved
from benchmarks.trainings import ROOT, Job, check_same_params, train_all
from config.load import load_params
from data.cache import FileStore
from data.dataset import read_dataset
from engine.gan.sampling import GRID, write_samples
from evaluate.core.generation.distances import diversity, frechet_distance, statistics_of
from evaluate.core.generation.measured_by import features_of, load_measurer
from evaluate.core.plugins import plugin_options
from utils.cli import exit_code_of
from utils.files import write_json, write_text
from utils.logs import log_to_screen

BLUR = 2.0
"""Standard deviation of the blur, pixels."""
NOISE = 0.05
"""Standard deviation of the noise, on pixels of 0..1."""
COLUMNS = ("fid", "kid", "precision", "recall", "diversity", "copies")


def main(argv: Sequence[str]) -> None:
    """Run what is missing, then write the results."""
    args = parse_arguments(argv)
    settings = [*args.set, f"working_dir={args.working_dir}", f"gan_params.measured_by={args.measured_by}"]
    jobs = [
        Job(
            f"generator_seed{seed}",
            args.config_path,
            (*settings, f"seed={seed}"),
            args.working_dir,
            operation="train_gan",
        )
        for seed in args.seeds
    ]
    for job in jobs:
        check_same_params(job, resolved(job.params, job.settings))
    train_all(jobs, args.jobs)
    report = {
        "date": date.today().isoformat(),
        "hardware": hardware(args.jobs),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "recipe": args.config_path.name,
        "overrides": args.set,
        "scale": scale_of(args.config_path, settings),
        "runs": [{"seed": seed, **outcome(job)} for seed, job in zip(args.seeds, jobs, strict=True)],
    }
    table = table_of(report)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out.with_suffix(".json"), report)
    write_text(args.out.with_suffix(".md"), table)
    samples = jobs[0].run / "samples"
    params, _ = load_params(jobs[0].run / "params.json", plugin_options=plugin_options)
    if not samples.exists():
        write_samples(jobs[0].run, params, samples, 128, torch.device("cpu"))
    shutil.copy(samples / GRID, args.out.with_suffix(".png"))
    print(table)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config_path", type=Path, default=ROOT / "params.json", help="default: params.json")
    parser.add_argument("--measured_by", required=True, help="re-ID run or checkpoint whose features are compared")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as for train.py")
    parser.add_argument("--working_dir", type=Path, default=Path("runs/generator"), help="where the runs lie")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, which share the CPU's cores")
    parser.add_argument("--out", type=Path, required=True, help="the results, without suffix")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: at least 1")
    if args.measured_by == "none":
        parser.error("--measured_by none: without a measure there is nothing to tabulate")
    return args


def scale_of(config_path: Path, settings: Sequence[str]) -> dict[str, float]:
    """Distances between real images, in the size of the generated ones, by which those of a generator are judged."""
    params, _ = load_params(config_path, settings, plugin_options=plugin_options)
    gan = params.gan_params
    paths = [sample.path for sample in read_dataset(params).train]
    images = FileStore(paths, gan.img_h, gan.img_h // 2).read(range(len(paths)))
    measurer = load_measurer(gan.measured_by, torch.device("cpu"))
    real = features_of(measurer, images)
    order = np.random.default_rng(0).permutation(len(real))
    halves = [statistics_of(real[half]) for half in np.array_split(order, 2)]
    some = order[: gan.num_measured]
    blurred = features_of(measurer, spoilt(images[torch.from_numpy(some)]))
    return {
        "images": len(real),
        "halves": frechet_distance(*halves),
        "blur": BLUR,
        "noise": NOISE,
        "spoilt": frechet_distance(statistics_of(real), statistics_of(blurred)),
        "spoilt_diversity": diversity(blurred) / diversity(real),
    }


def spoilt(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8, blurred and with noise."""
    rng = np.random.default_rng(0)
    pixels = gaussian_filter(images.numpy().astype(np.float32) / 255, (0, 0, BLUR, BLUR))
    pixels += NOISE * rng.standard_normal(pixels.shape, dtype=np.float32)
    return torch.from_numpy(np.round(pixels.clip(0, 1) * 255).astype(np.uint8))


def outcome(job: Job) -> dict[str, Any]:
    """What a finished run came to: its best epoch, the untrained generator, its losses and the time it took."""
    records = [json.loads(line) for line in (job.run / "metrics.jsonl").read_text().splitlines()]
    measured = [record for record in records if "metrics" in record]
    best = min(measured, key=lambda record: record["metrics"]["fid"])
    untrained = next(line for line in (job.run / "train_log").read_text().splitlines() if "before training" in line)
    losses = [value for record in records for value in (*record["losses"].values(), *record["measures"].values())]
    return {
        "untrained_fid": float(untrained.partition("fid ")[2].split()[0]),
        "epoch": best["epoch"],
        "metrics": best["metrics"],
        "last_metrics": measured[-1]["metrics"],
        "epochs": records[-1]["epoch"],
        "steps": records[-1]["step"],
        "all_losses_finite": all(map(math.isfinite, losses)),
        "minutes": sum(record["seconds"] for record in records) / 60,
        "examples_per_second": statistics.median(record["examples_per_second"] for record in records),
    }


def table_of(report: dict[str, Any]) -> str:
    """A markdown table, one row for each seed."""
    scale = report["scale"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"{report['date']}; {report['hardware']}; {versions}; {report['recipe']}",
        *([f"With {', '.join(report['overrides'])}"] if report["overrides"] else []),
        "",
        f"Fréchet distances in re-ID features, {scale['images']:.0f} real images: of one half of them to the other "
        f"{scale['halves']:.1f}; of all of them to themselves blurred (sigma {scale['blur']:g} pixels) with noise "
        f"(sigma {scale['noise']:g}) {scale['spoilt']:.1f}. Diversity is relative to the real images'.",
        "",
        f"| seed | untrained FID | {' | '.join(COLUMNS)} | best epoch | last diversity | losses finite | minutes |",
        f"|---|---:|{'---:|' * len(COLUMNS)}---:|---:|---|---:|",
    ]
    for run in report["runs"]:
        cells = [
            str(run["seed"]),
            f"{run['untrained_fid']:.0f}",
            *(f"{run['metrics'][name]:.3g}" if name in run["metrics"] else "" for name in COLUMNS),
            f"{run['epoch']} of {run['epochs']}",
            f"{run['last_metrics']['diversity']:.2f}",
            "yes" if run["all_losses_finite"] else "no",
            f"{run['minutes']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
