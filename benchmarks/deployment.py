"""How fast images are embedded: torch as tutorials use it, our predictor on a checkpoint, and on its exports.

    python -m benchmarks.deployment [--model resnet_50 --size 256 128 --batch 32 --rounds 5 --out FILE]

Each contestant is a process of its own that embeds the same batch of raw pixels; they take turns, forwards and
backwards, so that whatever drifts drifts for all. "torch eager" is the network in eval mode under inference_mode on
normalised float32 images as torch lays them out by default; it is given its images ready, all others normalise them.
Weights are random: they do not change the speed. Prints a table; with --out also writes it, and JSON beside it.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.evaluation import hardware
from benchmarks.speed_contestant import Contestant
from benchmarks.speed_rounds import Entry, complete, prepare, take_turns
from config.export import ExportParams
from config.params import Params
from data.synthetic import make_synthetic
from data.synthetic.options import SyntheticOptions
from deploy.export import export_onnx
from deploy.predictor import Predictor
from evaluate.core.load_model import load_trained_network
from models.network import build_network
from utils.checkpoint import MODEL_BEST, Checkpoint, save_checkpoint
from utils.cli import exit_code_of
from utils.files import write_json, write_text
from utils.logs import log_to_screen

EAGER = "torch eager"
SETTLE = 2
"""Batches before the rounds that do not count."""


class Embedding:
    """A predictor that embeds one batch again and again.

    Args:
        path: of the model.
        batch: images in it.
    """

    def __init__(self, path: Path, batch: int) -> None:
        self.predictor = Predictor(path, batch_size=batch)
        size = self.predictor.img_h, self.predictor.img_w
        self.pixels = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)

    def warm_up(self) -> dict[str, float]:
        """Batches that do not count."""
        return {"seconds": self.embed(SETTLE)}

    def embed(self, batches: int) -> float:
        """Seconds for a batch."""
        start = time.perf_counter()
        for _ in range(batches):
            self.predictor.embed(self.pixels)
        return (time.perf_counter() - start) / batches


class Eager:
    """The network in torch, as tutorials call it; arguments as for `Embedding`."""

    def __init__(self, path: Path, batch: int) -> None:
        params, _, network, _ = load_trained_network(path)
        self.embed_images = network.eval().embed
        self.images = torch.randn(batch, 3, params.img_h, params.img_w)

    def warm_up(self) -> dict[str, float]:
        """Batches that do not count."""
        return {"seconds": self.embed(SETTLE)}

    @torch.inference_mode()
    def embed(self, batches: int) -> float:
        """Seconds for a batch."""
        start = time.perf_counter()
        for _ in range(batches):
            self.embed_images(self.images)
        return (time.perf_counter() - start) / batches


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write what was asked for."""
    args = parse_arguments(argv)
    log_to_screen()
    with tempfile.TemporaryDirectory(prefix="deployment") as folder:
        paths = make_models(Path(folder), args.model, tuple(args.size))
        report = {
            "date": date.today().isoformat(),
            "hardware": hardware("cpu"),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "network": f"{args.model}, {args.size[0]} x {args.size[1]}, last stride 1",
            "batch": args.batch,
            "rows": measure(paths, args.batch, args.batches, args.rounds),
        }
    table = table_of(report)
    if args.out is not None:
        write_json(args.out.with_suffix(".json"), report)
        write_text(args.out.with_suffix(".md"), table)
    print(table)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deployment", allow_abbrev=False)
    parser.add_argument("--model", default="resnet_50", choices=["resnet_18", "resnet_34", "resnet_50", "resnet_101"])
    parser.add_argument("--size", type=int, nargs=2, default=[256, 128], metavar=("H", "W"), help="default: 256 128")
    parser.add_argument("--batch", type=int, default=32, help="images at once; default: 32")
    parser.add_argument("--batches", type=int, default=3, help="batches in a round; default: 3")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    args = parser.parse_args(argv)
    if min(args.batch, args.batches, args.rounds, *args.size) < 1:
        parser.error("numbers must be at least 1")
    return args


def make_models(folder: Path, model: str, size: tuple[int, int]) -> dict[str, Path]:
    """A checkpoint of a network with random weights, and its exports, by name."""
    images = folder / "images"
    few = SyntheticOptions(train_identities=8, test_identities=4, distractors=0, junk=0, cameras=2)
    make_synthetic(images, few)
    params = Params.model_validate(
        {"img_h": size[0], "img_w": size[1], "batches_dir": str(images), "model_params": {"model": model}}
    )
    network = build_network(params.model_params, few.train_identities)
    checkpoint = folder / MODEL_BEST
    labels = list(range(1, few.train_identities + 1))
    save_checkpoint(checkpoint, Checkpoint(network.state_dict(), params.model_dump(mode="json"), labels, {}))
    paths = {EAGER: checkpoint, "predictor, checkpoint": checkpoint}
    for precision in ("fp32", "int8"):
        path = folder / f"{precision}.onnx"
        options = ExportParams(precision=precision, measured_images=0, calibration_images=32)
        export_onnx(checkpoint, params.model_copy(update={"export_params": options}), path)
        paths[f"predictor, onnx {precision}"] = path
    return paths


def measure(paths: dict[str, Path], batch: int, batches: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each contestant: images per second of each round, their median, and how many times eager's."""
    with ExitStack() as stack:
        entries = []
        for name, path in paths.items():
            kind = Eager if name == EAGER else Embedding
            contestant = stack.enter_context(Contestant(name, kind, path, batch))
            entries.append(Entry({"name": name}, contestant, "embed", (batches,)))
        prepare([entry.contestant for entry in entries], at_once=False)
        take_turns(entries, rounds)
    complete(entries, entries[0], batch, "times_eager")
    return [entry.row for entry in entries]


def table_of(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"{report['date']}; {report['hardware']}; {versions}; {report['network']}; batches of {report['batch']}",
        "",
        "| | images/s | of all rounds | times eager |",
        "|---|---:|---:|---:|",
    ]
    for row in report["rows"]:
        if "error" in row:
            lines.append(f"| {row['name']} | {row['error']} | | |")
            continue
        spread = f"{min(row['rounds']):.1f} to {max(row['rounds']):.1f}"
        lines.append(f"| {row['name']} | {row['images_per_second']:.1f} | {spread} | {row['times_eager']:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
