"""What share of a training step the losses take.

    python -m benchmarks.loss_overhead [--batch 64 --height 384 --width 128 --model resnet_50 --repeats 5]

Six stripes and a global branch, classification on every one of them and triplet losses on the global feature, on each
stripe and on all stripes end to end. The losses' time is that of their forward pass and of the backward pass down to
the network's outputs; the step's is that of the network's forward pass, the losses, the whole backward pass and the
SGD step. Both are medians of the repeats, which alternate. On a GPU the share is an upper bound: within a step, the
losses' many small kernels are queued while the network still computes. Prints a table; with --out also writes JSON.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from benchmarks.evaluation import hardware
from losses.criterion import Criterion, build_criterion
from losses.options import LossOptions
from models.network import ReidNetwork, build_network
from models.options import ModelParams
from models.outputs import BranchOutput
from utils.cli import exit_code_of
from utils.files import write_json
from utils.logs import log_to_screen

STRIPES, NUM_CLASSES = 6, 751  # those of Market-1501
IMAGES_PER_IDENTITY = 4
WARM_UP = 2


def main(argv: Sequence[str]) -> None:
    """Measure, print the line, and write what was asked for."""
    args = parse_arguments(argv)
    report = measure(args.model, args.batch, args.height, args.width, args.repeats, torch.device(args.device))
    report = {
        "date": date.today().isoformat(),
        "hardware": hardware(args.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        **report,
    }
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out.with_suffix(".json"), report)
    print(table_of(report))


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet_50", help="backbone")
    parser.add_argument("--batch", type=int, default=64, help=f"images, a multiple of {IMAGES_PER_IDENTITY}")
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="where to write JSON, without suffix")
    args = parser.parse_args(argv)
    if args.batch < 2 * IMAGES_PER_IDENTITY or args.batch % IMAGES_PER_IDENTITY:
        parser.error(f"--batch {args.batch}: expected a multiple of {IMAGES_PER_IDENTITY}, at least twice that")
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats}: at least 1")
    return args


def measure(model: str, batch: int, height: int, width: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Milliseconds of the losses and of the step, each repeat's and the medians, and their ratio."""
    torch.manual_seed(0)
    network, criterion = build(model, device)
    optimizer = SGD([*network.parameters(), *criterion.parameters()], lr=1e-3, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(batch, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch // IMAGES_PER_IDENTITY, device=device).repeat_interleave(IMAGES_PER_IDENTITY)
    with torch.no_grad():
        output = network(images)

    def whole_step() -> None:
        optimizer.zero_grad(set_to_none=True)
        lower(criterion, network(images), labels)
        optimizer.step()

    losses: list[float] = []
    steps: list[float] = []
    for repeat in range(WARM_UP + repeats):
        leaves = as_leaves(output)
        # Alternating, so that a machine that slows down does so for both.
        elapsed = milliseconds(lambda leaves=leaves: lower(criterion, leaves, labels), device)
        elapsed_whole = milliseconds(whole_step, device)
        if repeat >= WARM_UP:
            losses.append(elapsed)
            steps.append(elapsed_whole)
    medians = statistics.median(losses), statistics.median(steps)
    return {
        "model": model,
        "batch": batch,
        "height": height,
        "width": width,
        "losses_ms": losses,
        "step_ms": steps,
        "median_losses_ms": medians[0],
        "median_step_ms": medians[1],
        "ratio": medians[0] / medians[1],
    }


def build(model: str, device: torch.device) -> tuple[ReidNetwork, Criterion]:
    """A network with stripes and a global branch, and all losses on it."""
    options = ModelParams.model_validate(
        {"model": model, "pcb_n_parts": STRIPES, "feature_dim": 256 * STRIPES, "feature_global_dim": 256}
    )
    network = build_network(options, NUM_CLASSES).to(device)
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    losses = LossOptions(tri_loss_margin=0.3, tri_loss_on=("global", "parts", "concat"))
    return network.train(), build_criterion(losses, sizes=network.sizes).to(device)


def as_leaves(output: dict[str, BranchOutput]) -> dict[str, BranchOutput]:
    """The same values with nothing before them: a backward pass ends here."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_()

    return {
        name: branch._replace(
            features=leaf(branch.features),
            embeddings=leaf(branch.embeddings),
            scores=branch.scores._replace(logits=leaf(branch.scores.logits)),
        )
        for name, branch in output.items()
    }


def lower(criterion: Criterion, output: dict[str, BranchOutput], labels: Tensor) -> None:
    """The losses of a step and their gradients."""
    losses = criterion(output, labels).losses
    torch.stack(list(losses.values())).sum().backward()


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """How long it takes the device to do it."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - start)
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    before.record()
    work()
    after.record()
    torch.cuda.synchronize(device)
    return before.elapsed_time(after)


def table_of(report: dict[str, Any]) -> str:
    """Two lines of words and a table of one row."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    size = f"{report['batch']} images of {report['height']} x {report['width']}"
    low, high = (choose(_ratios(report)) for choose in (min, max))
    return "\n".join(
        [
            f"{report['date']}; {report['hardware']}; {versions}; medians of {len(report['step_ms'])} repeats",
            "",
            "| network | batch | losses, ms | step, ms | share of the losses | lowest to highest |",
            "|---|---|---:|---:|---:|---:|",
            f"| {report['model']}, {STRIPES} stripes and global | {size} | {report['median_losses_ms']:.1f} | "
            f"{report['median_step_ms']:.1f} | {report['ratio']:.2%} | {low:.2%} to {high:.2%} |",
        ]
    )


def _ratios(report: dict[str, Any]) -> list[float]:
    return [losses / step for losses, step in zip(report["losses_ms"], report["step_ms"], strict=True)]


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
