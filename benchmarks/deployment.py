"""How fast images are embedded and searched.

    python -m benchmarks.deployment [--parts embedding search] [--out benchmarks/results/deployment_here]

Parts: "embedding", images per second of torch as tutorials call it (eval mode, inference_mode, normalised float32
images), of the predictor on a checkpoint, and of the predictor on ONNX exports; "search", milliseconds a query takes
among the images of a gallery. Contestants take turns. Weights and images are random, which does not change the speed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Contestant, take_turns
from benchmarks.report import Report, Row
from config.params import ExportParams, Params
from data.synthetic.dataset import make_synthetic
from data.synthetic.options import SyntheticOptions
from deploy.export import export_onnx
from deploy.gallery.gallery import Gallery, Item
from deploy.predictor import Predictor
from evaluate.core.load_model import load_trained_network
from models.network import build_network
from utils.checkpoint import MODEL_BEST, Checkpoint, save_checkpoint
from utils.cli import exit_code_of
from utils.logs import log_to_screen

EAGER = "torch eager"
PARTS = ("embedding", "search")
WARM_UP = 2  # batches that do not count
PER_PERSON = 20  # images of one person in the gallery
SPREAD = 0.7  # distance of an embedding from its person's mean, before both are brought to unit length


class Embedding:
    """A predictor that embeds one batch again and again, or, if `eager`, the network in plain torch."""

    def __init__(self, path: Path, batch: int, eager: bool = False) -> None:
        self.batch = batch
        if eager:
            params, _, network, _ = load_trained_network(path)
            images = torch.randn(batch, 3, params.img_h, params.img_w)
            self.work = lambda: torch.inference_mode()(network.eval().embed)(images)
        else:
            predictor = Predictor(path, batch_size=batch)
            shape = batch, predictor.img_h, predictor.img_w, 3
            pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            self.work = lambda: predictor.embed(pixels)
        self.rate(WARM_UP)

    def rate(self, batches: int) -> float:
        """Images per second over so many batches."""
        start = time.perf_counter()
        for _ in range(batches):
            self.work()
        return batches * self.batch / (time.perf_counter() - start)


def main(argv: Sequence[str]) -> None:
    """Measures the parts, then writes the tables."""
    args = parse_arguments(argv)
    log_to_screen()
    height, width = args.size
    report = Report(f"Deployment of {args.model}, {height} x {width}, batches of {args.batch}; {args.rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="deployment-") as name:
        folder = Path(name)
        if "embedding" in args.parts:
            report.tables["Embedding raw pixels"] = embedding(make_model(folder, args), args)
        if "search" in args.parts:
            report.tables[f"Searching {args.rows:,} embeddings of 512, exactly"] = search(folder / "searched", args)
    report.save(args.out)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deployment", allow_abbrev=False)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--model", default="resnet_50", choices=["resnet_18", "resnet_34", "resnet_50", "resnet_101"])
    parser.add_argument("--size", type=int, nargs=2, default=[256, 128], metavar=("H", "W"), help="default: 256 128")
    for option, default, what in (
        ("--batch", 32, "images at once"),
        ("--batches", 3, "batches of a round"),
        ("--rounds", 5, "rounds"),
        ("--rows", 100_000, "images in the searched gallery"),
    ):
        parser.add_argument(option, type=int, default=default, help=f"{what}; default: {default}")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    args = parser.parse_args(argv)
    if min(args.batch, args.batches, args.rounds, args.rows, *args.size) < 1:
        parser.error("numbers must be at least 1")
    return args


def make_model(folder: Path, args: argparse.Namespace) -> Path:
    """A checkpoint with random weights, and data for the calibration of its exports."""
    few = SyntheticOptions(train_identities=8, test_identities=4, distractors=0, junk=0, cameras=2)
    make_synthetic(folder / "images", few)
    values = {"img_h": args.size[0], "img_w": args.size[1], "model_params": {"model": args.model}}
    params = Params.model_validate({**values, "batches_dir": str(folder / "images")})
    network = build_network(params.model_params, few.train_identities)
    labels = list(range(1, few.train_identities + 1))
    save_checkpoint(folder / MODEL_BEST, Checkpoint(network.state_dict(), params.model_dump(mode="json"), labels, {}))
    return folder / MODEL_BEST


def embedding(checkpoint: Path, args: argparse.Namespace) -> list[Row]:
    """A row for each way to embed a batch."""
    params = load_trained_network(checkpoint)[0]
    paths = {EAGER: checkpoint, "predictor, checkpoint": checkpoint}
    for precision in ("fp32", "int8"):
        path = paths[f"predictor, onnx {precision}"] = checkpoint.with_name(f"{precision}.onnx")
        options = ExportParams(precision=precision, measured_images=0, calibration_images=32)
        export_onnx(checkpoint, params.model_copy(update={"export_params": options}), path)
    with ExitStack() as stack:
        contestants = {
            name: stack.enter_context(Contestant(Embedding, path, args.batch, name == EAGER))
            for name, path in paths.items()
        }
        asked = {name: lambda one=one: one.ask("rate", args.batches) for name, one in contestants.items()}
        rates = take_turns(asked, args.rounds)
    ratios = {name: [own / base for own, base in zip(rates[name], rates[EAGER], strict=True)] for name in rates}
    return [{"": name, "images/s": rates[name], f"times {EAGER}": ratios[name]} for name in rates]


def search(folder: Path, args: argparse.Namespace) -> list[Row]:
    """Milliseconds per query in a gallery of clustered random embeddings, as images of persons have them."""
    rng = np.random.default_rng(0)
    persons = rng.standard_normal((-(-args.rows // PER_PERSON), 512), np.float32)

    def embeddings(number: int) -> np.ndarray:
        rows = persons[rng.integers(0, len(persons), number)]
        rows = rows + SPREAD * rng.standard_normal(rows.shape, np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    with Gallery(folder, 512, "random", index="exact") as gallery:
        for first in range(0, args.rows, 20_000):
            number = min(20_000, args.rows - first)
            gallery.add(embeddings(number), [Item(f"{first + i}.jpg", 1 + i % 6) for i in range(number)])
        queries = embeddings(16)
        kinds = {
            "one query": (queries[:1], None),
            "one query, one camera of six": (queries[:1], [2]),
            "16 queries at once, each": (queries, None),
        }

        def milliseconds(kind: str) -> float:
            some, camids = kinds[kind]
            start = time.perf_counter()
            gallery.search(some, 10, camids=camids)
            return 1000 * (time.perf_counter() - start) / len(some)

        contestants = {kind: lambda kind=kind: milliseconds(kind) for kind in kinds}
        take_turns(contestants, 1)  # does not count
        return [{"": kind, "ms per query": took} for kind, took in take_turns(contestants, args.rounds).items()]


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
