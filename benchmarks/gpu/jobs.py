"""The trainings of the steps, and what stands in for them in a rehearsal."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed import SETTINGS, Setting
from benchmarks.trainings import ROOT, Job
from data.synthetic.options import SyntheticOptions

FEW = SyntheticOptions(train_identities=32, test_identities=4, cameras=2, distractors=0, junk=0)
PCB6 = 2
"""The setting of `speed.py` that number formats are compared with."""
TOY_SETTING = Setting("toy", "resnet_18", 2, 32, 64, 32, 2, 8, 8)
TOY_PARAMS = (
    *("img_h=64", "img_w=32", "epoch=2", "batch_sampling_params=4*2", "lr.decay_step=1", "lr.warmup_epoch=0"),
    *("model_params.model=resnet_18", "model_params.feature_dim=32", "model_params.pcb_n_parts=2"),
    *("model_params.feature_global_dim=16", "evaluation_params.every_epochs=1"),
)


def settings_of(args: argparse.Namespace, numbers: Sequence[int]) -> list[tuple[Setting, int]]:
    """Settings of `speed.py` with their batch sizes; in a rehearsal one small setting."""
    settings = [TOY_SETTING] if args.toy else [SETTINGS[number - 1] for number in numbers]
    return [(setting, setting.batch_on(args.device)) for setting in settings]


def shipped_job(args: argparse.Namespace, name: str, images: Path, *settings: str) -> Job:
    """A training by params.json with changes."""
    folders = (f"batches_dir={images}", f"working_dir={args.folder}")
    return Job(name, ROOT / "params.json", (*folders, *(TOY_PARAMS if args.toy else ()), *settings), args.folder)


def losses_of(job: Job) -> list[float]:
    """The sum of the mean losses of each epoch."""
    return [sum(record["losses"].values()) for record in job.records()]
