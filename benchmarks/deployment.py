"""How fast images are embedded: torch as tutorials call it, the predictor on a checkpoint, and on its exports.

    python -m benchmarks.deployment [--model resnet_18 --size 128 64] [--out benchmarks/results/deployment_here]
    python -m benchmarks.deployment --families [NAME ...] --out benchmarks/results/deployment_families_cpu

"torch eager" is the network in eval mode under inference_mode on normalised float32 images; it is given them ready, the
others are given raw pixels. Contestants take turns, each in a process of its own. Weights are random, which does not
change the speed. With --families the exports (fp32) of several architectures take turns instead, at the size of images
that they are published for unless --size gives another, each beside the first, and compared with its network in torch.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

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
FEW = SyntheticOptions(train_identities=8, test_identities=4, distractors=0, junk=0, cameras=2)
WARM_UP = 2  # batches that do not count


class Family(NamedTuple):
    """An architecture."""

    model_params: dict[str, Any]
    size: tuple[int, int] = (256, 128)
    """Height and width of its images."""


NECK = {"neck": "bnneck"}
POOLED = {**NECK, "feature_dim": 0}
FAMILIES = {
    "ResNet-50": Family({**POOLED, "model": "resnet_50"}),
    "ResNet-18": Family({**POOLED, "model": "resnet_18"}),
    "MGN, ResNet-50": Family(
        {**NECK, "model": "resnet_50", "head": "mgn", "part_pooling": "gem", "global_pooling": "gem"}, (384, 128)
    ),
    "OSNet x1.0": Family({**NECK, "model": "osnet_x1_0", "feature_dim": 512}),
    "OSNet x0.25": Family({**NECK, "model": "osnet_x0_25", "feature_dim": 512}),
    "LightMBN, OSNet x1.0": Family({**NECK, "model": "osnet_x1_0", "head": "lightmbn", "feature_dim": 512}, (384, 128)),
    "MobileNetV2": Family({**POOLED, "model": "timm:mobilenetv2_100"}),
    "ViT-Ti/16": Family({**POOLED, "model": "timm:vit_tiny_patch16_224"}),
    "ViT-S/16": Family({**POOLED, "model": "timm:vit_small_patch16_224"}),
    "ViT-B/16": Family({**POOLED, "model": "timm:vit_base_patch16_224"}),
    "Swin-T": Family({**POOLED, "model": "timm:swin_tiny_patch4_window7_224", "last_conv_stride": 2}, (384, 128)),
}
"""The architectures that are compared; the first is what the others are measured against."""


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
    height, width = args.size or (256, 128)
    what = f"{args.model}, {height} x {width}" if args.families is None else "several architectures, onnx fp32"
    report = Report(f"Deployment of {what}, batches of {args.batch}; {args.rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="deployment-") as name:
        folder = Path(name)
        make_synthetic(folder / "images", FEW)
        if args.families is None:
            checkpoint = make_model(folder, {"model": args.model}, (height, width), folder / "images")
            report.tables[""] = embedding(checkpoint, args)
        else:
            report.tables[""] = families(folder, args)
            report.notes.append(
                "Million parameters: without classifiers. Difference: the largest of a value of an embedding of unit "
                "length between the export and its network in torch."
            )
    report.save(args.out)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deployment", allow_abbrev=False)
    parser.add_argument("--model", default="resnet_50", choices=["resnet_18", "resnet_34", "resnet_50", "resnet_101"])
    names = ", ".join(map(repr, FAMILIES))
    parser.add_argument("--families", nargs="*", metavar="NAME", help=f"compare architectures; default: all of {names}")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: 256 128, or as published")
    for option, default, what in (
        ("--batch", 32, "images at once"),
        ("--batches", 3, "batches of a round"),
        ("--rounds", 5, "rounds"),
    ):
        parser.add_argument(option, type=int, default=default, help=f"{what}; default: {default}")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    args = parser.parse_args(argv)
    if min(args.batch, args.batches, args.rounds, *(args.size or ())) < 1:
        parser.error("numbers must be at least 1")
    if unknown := [name for name in args.families or () if name not in FAMILIES]:
        parser.error(f"--families {unknown[0]}: unknown; there are {names}")
    return args


def make_model(folder: Path, model_params: dict[str, Any], size: tuple[int, int], images: Path) -> Path:
    """A checkpoint with random weights; its exports are checked and calibrated with the images."""
    values = {"img_h": size[0], "img_w": size[1], "model_params": model_params, "batches_dir": str(images)}
    params = Params.model_validate(values)
    network = build_network(params.model_params, FEW.train_identities, size)
    labels = list(range(1, FEW.train_identities + 1))
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder / MODEL_BEST, Checkpoint(network.state_dict(), params.model_dump(mode="json"), labels, {}))
    return folder / MODEL_BEST


def export(checkpoint: Path, precision: str, profile: str = "ours") -> Path:
    """Its model in ONNX, or with the profile "openvino", beside it."""
    suffix = ".xml" if profile == "openvino" else ".onnx"
    params, path = load_trained_network(checkpoint).params, checkpoint.with_name(precision).with_suffix(suffix)
    values = {"profile": profile, "precision": precision, "measured_images": 0, "calibration_images": 32}
    options = ExportParams.model_validate(values)
    export_onnx(checkpoint, params.model_copy(update={"export_params": options}), path)
    return path


def embedding(checkpoint: Path, args: argparse.Namespace) -> list[Row]:
    """A row for each way to embed a batch."""
    paths = {EAGER: checkpoint, "predictor, checkpoint": checkpoint}
    for precision in ("fp32", "int8"):
        paths[f"predictor, onnx {precision}"] = export(checkpoint, precision)
        paths[f"predictor, openvino {precision}"] = export(checkpoint, precision, "openvino")
    return race(paths, args)


def families(folder: Path, args: argparse.Namespace) -> list[Row]:
    """A row for each architecture."""
    rows: dict[str, Row] = {}
    paths: dict[str, Path] = {}
    for number, name in enumerate(dict.fromkeys([next(iter(FAMILIES)), *(args.families or FAMILIES)])):
        size = (args.size[0], args.size[1]) if args.size else FAMILIES[name].size
        checkpoint = make_model(folder / str(number), FAMILIES[name].model_params, size, folder / "images")
        paths[name] = export(checkpoint, "fp32")
        pixels = np.random.default_rng(0).integers(0, 256, (8, *size, 3), np.uint8)
        exported, in_torch = (Predictor(path, batch_size=8).embed(pixels) for path in (paths[name], checkpoint))
        network = load_trained_network(checkpoint).network
        classifiers = {id(weight) for module in network.classifiers() for weight in module.parameters()}
        count = sum(weight.numel() for weight in network.parameters() if id(weight) not in classifiers)
        rows[name] = {
            "size": f"{size[0]} x {size[1]}",
            "embedding": str(network.embedding_dim),
            "million parameters": count / 1e6,
            "difference": f"{np.abs(exported - in_torch).max():.1g}",
        }
    return [{**row, **rows[row[""]]} for row in race(paths, args)]


def race(paths: dict[str, Path], args: argparse.Namespace) -> list[Row]:
    """A row for each way to embed, beside the first."""
    with ExitStack() as stack:
        contestants = {
            name: stack.enter_context(Contestant(Embedding, path, args.batch, name == EAGER))
            for name, path in paths.items()
        }
        asked = {name: lambda one=one: one.ask("rate", args.batches) for name, one in contestants.items()}
        rates = take_turns(asked, args.rounds)
    first = next(iter(rates))
    ratios = {name: [own / base for own, base in zip(rates[name], rates[first], strict=True)] for name in rates}
    return [{"": name, "images/s": rates[name], f"times {first}": ratios[name]} for name in rates]


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
