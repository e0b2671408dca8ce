"""How fast images are embedded: torch as tutorials call it, the predictor on a checkpoint, and on its exports.

    python -m benchmarks.deployment [--model resnet_18 --size 128 64] [--out benchmarks/results/deployment_here]

"torch eager" is the network in eval mode under inference_mode on normalised float32 images; it is given them ready, the
others are given raw pixels. Contestants take turns, each in a process of its own. Weights are random, which does not
change the speed.
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
from deploy.predictor import Predictor
from evaluate.core.load_model import load_trained_network
from models.network import build_network
from utils.checkpoint import MODEL_BEST, Checkpoint, save_checkpoint
from utils.cli import exit_code_of
from utils.logs import log_to_screen

EAGER = "torch eager"
WARM_UP = 2  # batches that do not count


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
    """Measure and write the table."""
    args = parse_arguments(argv)
    log_to_screen()
    height, width = args.size
    report = Report(f"Deployment of {args.model}, {height} x {width}, batches of {args.batch}; {args.rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="deployment-") as folder:
        report.tables[""] = embedding(make_model(Path(folder), args), args)
    report.save(args.out)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deployment", allow_abbrev=False)
    parser.add_argument("--model", default="resnet_50", choices=["resnet_18", "resnet_34", "resnet_50", "resnet_101"])
    parser.add_argument("--size", type=int, nargs=2, default=[256, 128], metavar=("H", "W"), help="default: 256 128")
    for option, default, what in (
        ("--batch", 32, "images at once"),
        ("--batches", 3, "batches of a round"),
        ("--rounds", 5, "rounds"),
    ):
        parser.add_argument(option, type=int, default=default, help=f"{what}; default: {default}")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    args = parser.parse_args(argv)
    if min(args.batch, args.batches, args.rounds, *args.size) < 1:
        parser.error("numbers must be at least 1")
    return args


def make_model(folder: Path, args: argparse.Namespace) -> Path:
    """A checkpoint with random weights, and data for the calibration of its exports."""
    few = SyntheticOptions(train_identities=8, test_identities=4, distractors=0, junk=0, cameras=2)
    make_synthetic(folder / "images", few)
    values = {"img_h": args.size[0], "img_w": args.size[1], "model_params": {"model": args.model}}
    params = Params.model_validate({**values, "batches_dir": str(folder / "images")})
    network = build_network(params.model_params, few.train_identities, (params.img_h, params.img_w))
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


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
