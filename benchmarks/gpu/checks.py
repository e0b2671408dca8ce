"""The steps that tell whether everything runs on a GPU and is right."""

import argparse
import json
import os

import torch

from benchmarks.evaluation import Metrics, Ranking
from benchmarks.gpu.jobs import FEW, PCB6, losses_of, settings_of, shipped_job
from benchmarks.gpu.steps import FAILED, Rows
from benchmarks.measure import Contestant
from benchmarks.report import Row
from benchmarks.speed import VARIANTS, params_of
from benchmarks.trainings import ROOT, Job, last_line, run_process
from data.synthetic.dataset import make_synthetic
from data.synthetic.options import SyntheticOptions
from evaluate.core.retrieval.distances import FeatureDistances, Metric
from utils.checkpoint import MODEL_BEST, load_checkpoint
from utils.errors import UserError

CURVE_IMAGES = SyntheticOptions(train_identities=260)
"""For 49 steps an epoch, of 64 images each."""


def run_tests(rows: Rows, args: argparse.Namespace) -> None:
    """The tests for GPUs, within this process."""
    import pytest

    class Reporter:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed or report.skipped or report.when == "call":
                self.add(report, report.duration)

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                self.add(report, 0.0)

        def add(self, report: pytest.TestReport | pytest.CollectReport, seconds: float) -> None:
            row: Row = {"": report.nodeid, "result": report.outcome, "seconds": seconds}
            if report.failed:
                # pytest marks the lines of an error.
                lines = [line[1:] for line in report.longreprtext.splitlines() if line.startswith("E ")]
                row[FAILED] = last_line("\n".join(lines) or report.longreprtext)
            rows.add(row)

    os.chdir(ROOT)
    options = ["--rootdir", str(ROOT), "-c", "pyproject.toml", "-p", "no:cacheprovider", "-m", "gpu"]
    # Another version of a library may warn as it is imported, which says nothing of the GPU.
    options += ["-W", "default"]
    files = ["--continue-on-collection-errors", *map(str, args.tests)]
    code = pytest.main([*options, *files], plugins=[Reporter()])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise UserError(f"pytest ended with {code!r}")


def train_twice(rows: Rows, args: argparse.Namespace) -> None:
    """Deterministic trainings, and one that generated images join."""
    images = make_synthetic(args.folder / "images", FEW)
    erasing = ("model_params.part_feature_erasing=0.5", "model_params.last_conv_stride=1")
    changes = {"as shipped": (), "maximum pooling, erasing": ("model_params.part_pooling=max", *erasing)}
    for name, settings in changes.items():
        with rows.measuring(f"deterministic, twice: {name}") as row:
            models = []
            for number in (1, 2):
                options = ("deterministic=true", "compile=off", "epoch=1", *settings)
                job = shipped_job(args, f"{name} {number}", images, *options)
                row["seconds"] = job.measure(args.device).seconds
                models.append(load_checkpoint(job.run / MODEL_BEST).model)
            different = [key for key, value in models[0].items() if not torch.equal(value, models[1][key])]
            row["result"] = f"{len(different)} of {len(models[0])} tensors differ" if different else "same bits"
    small = ("gan_params.ngf=8", "gan_params.ndf=8", "gan_params.epoch=1", "gan_params.measured_by=none")
    generator = shipped_job(args, "generator", images, *small)
    with rows.measuring("a generator") as row:
        config = ("--config_path", str(generator.params), "--sub_working_dir", generator.name)
        command = ("train.py", "--operation", "train_gan", *config, "--set", *generator.settings)
        row["seconds"] = run_process(command, args.device).seconds
    mixed = (
        f"gan_params.pretrain_snapshot_g={generator.run}",
        "gan_params.mix_ratio=0.25",
        "evaluation_params.type=null",
    )
    for mode in args.compile:
        with rows.measuring(f"generated images in the second epoch, erasing, compile={mode}") as row:
            options = (*mixed, "gan_params.mix_start_epoch=1", *erasing, f"compile={mode}", "epoch=2")
            job = shipped_job(args, f"mixed {mode}", images, *options)
            row["seconds"] = job.measure(args.device).seconds
            row["result"] = f"trained; losses {', '.join(f'{loss:.3f}' for loss in losses_of(job))}"


def compare_with_cpu(rows: Rows, args: argparse.Namespace) -> None:
    """Whether equal images get equal distances; ranking and re-ranking beside the CPU's."""
    sizes = (64, 200, 32) if args.toy else (2048, 16_000, 2048)
    metrics: tuple[Metric, ...] = ("cosine", "euclidean")
    for metric in metrics:
        with rows.measuring(
            f"{sizes[0]} x {sizes[1]}, {metric}", "Largest difference of distances to equal rows"
        ) as row:
            for at_once in (1, 16, 100, sizes[0]):
                row[f"{at_once} queries at once"] = spread_of_ties(metric, *sizes, at_once, torch.device(args.device))
    planted = argparse.Namespace(size="small" if args.toy else "market", seed=0)
    for part in ("ranking", "k_reciprocal"):
        on_cpu: Metrics = {}
        for device in ("cpu", args.device):
            with rows.measuring(f"{part} ({device})", f"Embeddings of the size of {planted.size}") as row:
                with Contestant(Ranking, part, planted, device) as contestant:
                    results = [contestant.ask("run") for _ in range(1 if device == "cpu" else 3)]
                found = results[-1][0]
                row["seconds"] = [cost.seconds for _, cost in results]
                row["MiB"] = [cost.peak_mib for _, cost in results]
                row.update(found)
                if on_cpu:
                    row["difference"] = max(abs(found[name] - on_cpu[name]) for name in found)
                on_cpu = found


def spread_of_ties(
    metric: Metric, num_query: int, num_gallery: int, dim: int, at_once: int, device: torch.device
) -> float:
    """How far the distances of a query to equal gallery rows are apart, at most."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(num_query, dim, generator=generator).to(device)
    gallery = torch.randn(1, dim, generator=generator).expand(num_gallery, dim).contiguous().to(device)
    distances = FeatureDistances(query, gallery, metric).rows(0, min(at_once, num_query))
    return (distances.amax(dim=1) - distances.amin(dim=1)).max().item()


def compare_losses(rows: Rows, args: argparse.Namespace) -> None:
    """Loss curves of number formats over the same batches, beside those of other seeds."""
    ((setting, batch),) = settings_of(args, [PCB6])
    images = make_synthetic(args.folder / "images", FEW if args.toy else CURVE_IMAGES)
    number = len(list((images / "bounding_box_train").glob("*.jpg")))
    epochs = 2 if args.toy else max(2, round(300 / (number // batch)))
    runs = [("fp32", 0), ("bf16", 0), ("fp32", 1), ("bf16, compiled", 0), ("fp16", 0), ("fp32", 2)]
    base: list[float] = []
    for name, seed in runs:
        if VARIANTS[name]["compile"] not in args.compile:
            continue
        with rows.measuring(f"{name}, seed {seed}") as row:
            config = args.folder / f"{name} {seed}.json"
            more = {"batches_dir": str(images), "epoch": epochs, "seed": seed}
            config.write_text(json.dumps(params_of(setting, batch, VARIANTS[name]) | more))
            job = Job(config.stem, config, (f"working_dir={args.folder}",), args.folder)
            job.measure(args.device)
            losses = losses_of(job)
            if (name, seed) == runs[0]:
                base = losses
            row.update({f"to step {record['step']}": loss for record, loss in zip(job.records(), losses, strict=True)})
            row["difference at the end"] = losses[-1] - base[-1] if base else None
