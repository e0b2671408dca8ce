"""Train a person re-identification model: `python train.py --operation start_train`.

The settings live in params.json; `python train.py --help` shows the operations.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from config.load import load_params
from config.params import Params
from data.samples import Sample
from engine.batches import ExtraImages
from engine.build import build_trainer
from engine.commands import (
    Task,
    build_lmdb,
    check_config,
    load_checkpoint_with_changes,
    load_run_with_changes,
    make_synthetic_set,
    resume_train,
    start_run,
)
from engine.launch import detach
from engine.run import RunFolder, new_name
from engine.trainer import Trainer
from evaluate.core.plugins import plugin_options
from utils.cli import exit_code_of, whole_number
from utils.logs import log_to_screen
from utils.process import is_launched

OPERATIONS = """operations:
  start_train     train a new run in working_dir/NAME
  train_gan       train a person generator in working_dir/NAME, as gan_params says
  sample_gan      write pictures of the generator of the run NAME to the folder --out DIR, with a grid of them
  resume_train    go on with a run that was stopped, with its own params
  export_onnx     write the best model of the run NAME, or the checkpoint --from FILE, as an ONNX model, to --out FILE
                  or beside it
  export_hub      write the same as a folder for the Hugging Face hub, to --out DIR or the folder hub beside it
  import_weights  make a checkpoint of this framework, --out FILE, of the file --from FILE of another one, --as
                  fastreid, torchreid, transreid, solider or clipreid
  check_config    validate the params and show what they amount to; train nothing
  make_synthetic  write the synthetic pedestrians as a Market-1501-style folder to --out DIR
  audit_data      find wrong labels, copies and poor crops in the training set, by the network --from FILE or the one
                  that training starts from; write a page and a file of corrections to the folder --out DIR
  build_lmdb      pack the data set of the params into one file, --out X.lmdb, which batches_dir may then name
"""

SHARED = ("start_train", "resume_train", "audit_data")
"""Operations that several processes do together."""

EXPORTS = ("export_onnx", "export_hub")

GOES_WITH = {
    "config_path": ("start_train", "check_config", "make_synthetic", "build_lmdb", "train_gan", "audit_data"),
    "sub_working_dir": ("start_train", "resume_train", "train_gan", "sample_gan", *EXPORTS),
    "detach": ("start_train", "train_gan"),
    "out": ("make_synthetic", "build_lmdb", "sample_gan", "audit_data", "import_weights", *EXPORTS),
    "from": ("import_weights", "audit_data", *EXPORTS),
    "as": ("import_weights",),
    "count": ("sample_gan",),
}

NEEDS_RUN = {
    "resume_train": "the run to go on with",
    "sample_gan": "the run of the generator",
    **dict.fromkeys(EXPORTS, "the run to export"),
}

NEEDS_OUT = ("make_synthetic", "build_lmdb", "sample_gan", "audit_data")

NEEDED_TO_EXPORT = ("export_params", "batches_dir", "test_dirs")
"""Keys of a run that may be others when it is exported: how, and where the data sets lie by now."""

# The packages of generator, audit and deployment are imported where an operation needs them: others start faster.


def build_generator_trainer(params: Params, folder: RunFolder, device: torch.device, resume: bool) -> Trainer:
    """The trainer of a person generator."""
    from gan.trainer import build_gan_trainer

    return build_gan_trainer(params, folder, device, resume)


def build_extra_images(
    params: Params, train: Sequence[Sample], device: torch.device, resume: bool
) -> ExtraImages | None:
    """The generated images that the params ask for; None: they ask for none."""
    if params.gan_params.mix_ratio == 0:
        return None
    from gan.mixing import build_generated_images

    return build_generated_images(params, train, device, resume)


def check_extra_images(params: Params) -> str:
    """Check where generated images come from; a line about them, "" if the params ask for none."""
    if params.gan_params.mix_ratio == 0:
        return ""
    from gan.mixing import check_generated_images

    return check_generated_images(params)


def build_reid_trainer(params: Params, folder: RunFolder, device: torch.device, resume: bool) -> Trainer:
    """The trainer of a re-ID network, with labels or without."""
    if params.is_unsupervised:
        from unsupervised.trainer import ClusterTrainer

        return build_trainer(params, folder, device, resume, make_trainer=ClusterTrainer)
    return build_trainer(params, folder, device, resume, build_extra_images)


REID_TASK = Task("start_train", build_reid_trainer)
GENERATOR_TASK = Task("train_gan", build_generator_trainer)


def main(argv: list[str]) -> None:
    """Command line -> params -> the operation."""
    args = parse_arguments(argv)
    log_to_screen()
    if args.operation == "resume_train":
        resume_train([REID_TASK, GENERATOR_TASK], args.sub_working_dir, args.set)
        return
    if args.operation == "sample_gan":
        from gan.sampling import sample_gan

        sample_gan(args.sub_working_dir, args.set, args.out, args.count or 64)
        return
    if args.operation in EXPORTS:
        export(args)
        return
    if args.operation == "import_weights":
        from engine.importing import import_weights

        import_weights(getattr(args, "from"), getattr(args, "as"), args.out, args.set)
        return
    params, notes = load_params(args.config_path, args.set, plugin_options=plugin_options)
    match args.operation:
        case "start_train" | "train_gan" if args.detach:
            detach(argv, params.working_dir, args.sub_working_dir or new_name())
        case "start_train":
            start_run(REID_TASK, params, args.sub_working_dir or new_name(), notes)
        case "train_gan":
            from gan.trainer import check_gan_params

            check_gan_params(params)
            start_run(GENERATOR_TASK, params, args.sub_working_dir or new_name(), notes)
        case "check_config":
            check_config(params, notes, check_extra_images)
        case "make_synthetic":
            make_synthetic_set(params, notes, args.out)
        case "build_lmdb":
            build_lmdb(params, notes, args.out)
        case "audit_data":
            from audit.operation import audit_data

            audit_data(params, notes, getattr(args, "from"), args.out, REID_TASK.build)


def export(args: argparse.Namespace) -> None:
    """Write a trained network for other programs."""
    if path := getattr(args, "from"):
        params, out = load_checkpoint_with_changes(path, args.set, NEEDED_TO_EXPORT), path.with_suffix(".onnx")
    else:
        folder, params = load_run_with_changes(args.sub_working_dir, args.set, NEEDED_TO_EXPORT)
        path, out = folder.best, folder.path / "model.onnx"
    params = params.model_copy(update={"label_fixes": ""})  # labels of training images are not used
    if args.operation == "export_onnx":
        from deploy.export import export_onnx, file_name

        export_onnx(path, params, args.out or out.with_name(file_name(params) or out.name))
    else:
        from deploy.hub import export_hub

        export_hub(path, params, args.out or out.with_name("hub"))


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = argparse.ArgumentParser(
        prog="train.py", epilog=OPERATIONS, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    operations = [line.split()[0] for line in OPERATIONS.splitlines()[1:] if not line.startswith("   ")]
    parser.add_argument(
        "--operation", default="start_train", choices=operations, metavar="OPERATION", help="default: start_train"
    )
    parser.add_argument("--config_path", type=Path, metavar="FILE", help="default: params.json")
    parser.add_argument("--sub_working_dir", default="", metavar="NAME", help="the run; default: its start time")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override params: lr.base_lr=0.02"
    )
    parser.add_argument("--detach", action="store_true", help="start_train or train_gan in the background")
    parser.add_argument("--out", type=Path, metavar="PATH", help="what an operation writes")
    parser.add_argument("--from", type=Path, metavar="FILE", help="the checkpoint to import, export or audit with")
    parser.add_argument("--as", metavar="FRAMEWORK", help="which framework's it is")
    parser.add_argument(
        "--count", type=whole_number(1, 1_000_000), metavar="N", help="pictures that sample_gan writes; default: 64"
    )
    args = parser.parse_args(argv)
    names_file = args.operation in EXPORTS and getattr(args, "from") is not None
    if names_file and args.sub_working_dir:
        parser.error(f"{args.operation} takes --sub_working_dir NAME or --from FILE, not both")
    if args.operation in NEEDS_RUN and not args.sub_working_dir and not names_file:
        parser.error(f"{args.operation} needs --sub_working_dir NAME: {NEEDS_RUN[args.operation]}")
    if args.operation in NEEDS_OUT and args.out is None:
        parser.error(f"{args.operation} needs --out PATH: where to write")
    if args.operation == "import_weights" and not (getattr(args, "from") and getattr(args, "as")):
        parser.error("import_weights needs --from FILE and --as FRAMEWORK: the checkpoint, and which framework's it is")
    if is_launched() and (args.operation not in SHARED or args.detach):
        what = "--detach" if args.detach else args.operation
        parser.error(f"{what} is the work of one process; start it without torchrun")
    for option, operations in GOES_WITH.items():
        if getattr(args, option) and args.operation not in operations:
            parser.error(f"--{option} goes with {' and '.join(operations)}, not with {args.operation}")
    args.config_path = args.config_path or Path("params.json")
    return args


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
