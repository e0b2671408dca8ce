"""How fast train.py trains, beside the same training as most tutorials write it (`textbook.py`).

    python -m benchmarks.speed [--setting 2] [--device cuda] [--out benchmarks/results/speed_here]
    python -m benchmarks.speed --setting 2 --variants "bf16, compiled" --rounds 1

Trains on synthetic pedestrians, augmented, in every number format and compiled where that pays, or in the variants that
are named; contestants take turns, each run is a process of its own. Compiling takes minutes in each compiled run: where
a command has ten minutes, name one variant and ask for one round. Images per second are those of every epoch but the
first, which also decodes the images and compiles. Memory is the peak of the whole process, on a GPU what the device has
less free meanwhile. Linux only. Settings:

"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.measure import take_turns
from benchmarks.report import Report
from benchmarks.trainings import Job, run_process
from data.synthetic.dataset import make_synthetic
from data.synthetic.options import SyntheticOptions
from utils.cli import exit_code_of
from utils.errors import ParamsError
from utils.logs import log_to_screen

TEXTBOOK = "textbook"


class Setting(NamedTuple):
    """A network, its images and its batches; `parts` 0 = one feature of the whole map."""

    name: str
    model: str
    parts: int
    dim: int
    height: int
    width: int
    stride: int
    batch: int
    cpu_batch: int

    def batch_on(self, device: str) -> int:
        """The size of the batches on a kind of device."""
        return self.batch if device == "cuda" else self.cpu_batch


SETTINGS = (
    Setting("PCB-4, resnet_18, 128 x 64, stride 2", "resnet_18", 4, 256, 128, 64, 2, 64, 64),
    Setting("PCB-6, resnet_50, 384 x 128, stride 1", "resnet_50", 6, 1536, 384, 128, 1, 64, 16),
    Setting("PCB-6, resnet_50, 384 x 128, stride 2", "resnet_50", 6, 1536, 384, 128, 2, 64, 16),
    Setting("single feature, resnet_50, 256 x 128, stride 1", "resnet_50", 0, 256, 256, 128, 1, 128, 16),
)
VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32", "compile": "off"},
    "bf16": {"precision": "bf16", "compile": "off"},
    "bf16, compiled": {"precision": "bf16", "compile": "on"},
    "bf16, graphs": {"precision": "bf16", "compile": "graphs"},
    "fp16": {"precision": "fp16", "compile": "off"},
    "fp16, compiled": {"precision": "fp16", "compile": "on"},
}
DEFAULT_VARIANTS = {"cpu": ["fp32"], "cuda": ["bf16, compiled", "bf16", "fp32"]}


class Run(NamedTuple):
    """Images per second of each epoch but the first, and the peak of memory."""

    rates: list[float]
    peak_mib: float


def main(argv: Sequence[str]) -> None:
    """Measure one setting and write the table."""
    args = parse_arguments(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ParamsError("--device cuda: there is no CUDA device on this machine")
    setting = SETTINGS[args.setting - 1]
    batch = setting.batch_on(args.device)
    with tempfile.TemporaryDirectory(prefix="speed-") as name:
        folder = Path(name)
        images = make_images(folder / "images", batch * args.steps)
        numbers = count()
        contestants: dict[str, Callable[[], Run]] = {
            name: lambda name=name: ours(
                folder / f"run{next(numbers)}", images, params_of(setting, batch, VARIANTS[name]), args
            )
            for name in args.variants
        }
        contestants[TEXTBOOK] = lambda: textbook(folder, images, params_of(setting, batch, {}), args)
        runs = take_turns(contestants, args.rounds)
    rates = {name: [rate for run in some for rate in run.rates] for name, some in runs.items()}
    title = (
        f"Training {setting.name}, batches of {batch}; {args.rounds} runs of {args.epochs} epochs of {args.steps} steps"
    )
    report = Report(title, args.device)
    report.tables[""] = [
        {
            "": name,
            "images/s": rates[name],
            f"times {TEXTBOOK}": [own / base for own, base in zip(rates[name], rates[TEXTBOOK], strict=True)],
            "peak MiB": [run.peak_mib for run in runs[name]],
        }
        for name in runs
    ]
    report.save(args.out)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    lines = [f"  {number}  {setting.name}" for number, setting in enumerate(SETTINGS, 1)]
    description = str(__doc__) + "\n".join(lines)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--setting", type=int, choices=range(1, len(SETTINGS) + 1), default=1, help="default: 1")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if on_gpu else "cpu")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="number formats, compiled or not")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contestant; default: 3")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of a run, the first not counted; default: 3")
    parser.add_argument("--steps", type=int, help="steps of an epoch; default: 4 on the CPU, 24 on a GPU")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    args = parser.parse_args(argv)
    args.variants = DEFAULT_VARIANTS[args.device] if args.variants is None else args.variants
    args.steps = (24 if args.device == "cuda" else 4) if args.steps is None else args.steps
    if min(args.rounds, args.steps) < 1 or args.epochs < 2:
        parser.error("--rounds, --steps: at least 1; --epochs: at least 2")
    return args


def params_of(setting: Setting, batch: int, values: dict[str, Any]) -> dict[str, Any]:
    """A params.json of the setting."""
    return {
        "img_h": setting.height,
        "img_w": setting.width,
        "batch_size": batch,
        "data_augmentation": {"mirror": True, "pad": 10, "random_erasing": {"probability": 0.5}},
        "model_params": {
            "model": setting.model,
            "last_conv_stride": setting.stride,
            "pcb_n_parts": setting.parts,
            "feature_dim": setting.dim,
        },
        **values,
    }


def make_images(folder: Path, number: int) -> Path:
    """Training images of as many persons as there are pairs of images."""
    options = SyntheticOptions(
        train_identities=-(-number // 2), cameras=2, images_per_camera=1, test_identities=2, distractors=0, junk=0
    )
    return make_synthetic(folder, options)


def ours(run: Path, images: Path, params: dict[str, Any], args: argparse.Namespace) -> Run:
    """Train with train.py; `args` has the device and the number of epochs."""
    config = run.with_suffix(".json")
    more = {
        "batches_dir": str(images),
        "epoch": args.epochs,
        "evaluation_params": {"every_epochs": args.epochs},
    }
    config.write_text(json.dumps(params | more))
    job = Job(run.name, config, (f"working_dir={run.parent}",), run.parent)
    finished = job.measure(args.device)
    return Run([record["examples_per_second"] for record in job.records()[1:]], finished.peak_mib)


def textbook(folder: Path, images: Path, params: dict[str, Any], args: argparse.Namespace) -> Run:
    """Train as tutorials do."""
    config = folder / "textbook.json"
    config.write_text(json.dumps(params))
    pictures = str(images / "bounding_box_train")
    command = ["-m", "benchmarks.textbook", str(config), pictures, str(args.epochs), "--device", args.device]
    finished = run_process(command, args.device)
    return Run(json.loads(finished.output)[1:], finished.peak_mib)


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
