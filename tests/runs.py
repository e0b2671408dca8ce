"""What a run leaves in its folder, as tests compare it."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CLOCK = ("seconds", "examples_per_second")
"""What the clock decides, and no two runs have in common."""
DOCUMENTED = {"params.json", "train_log", "metrics.jsonl", "events.out.tfevents.*", "model_best.pth"}
"""The files of a finished run."""


def files_of(run: Path) -> set[str]:
    """The names in its folder, without what TensorBoard makes unique."""
    return {re.sub(r"tfevents\..*", "tfevents.*", entry.name) for entry in run.iterdir()}


def records_of(run: Path, clock: bool = False) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, by default without what the clock decides."""
    path = run / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{name: value for name, value in record.items() if clock or name not in CLOCK} for record in records]


def num_epochs(run: Path) -> int:
    """How many epochs are recorded so far; a line that is being written counts only when it is whole."""
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def curves_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows as curves: step and value, but for what the clock decides."""
    events = EventAccumulator(str(run), {"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.endswith(CLOCK)]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def pictures_of(run: Path) -> dict[str, list[tuple[int, bytes]]]:
    """What TensorBoard shows as images: step and encoded image."""
    events = EventAccumulator(str(run), {"images": 0})
    events.Reload()
    tags = events.Tags()["images"]
    return {tag: [(event.step, event.encoded_image_string) for event in events.Images(tag)] for tag in tags}


def weights_of(run: Path, name: str = "model_best.pth") -> dict[str, torch.Tensor]:
    return torch.load(run / name, weights_only=True)["model"]


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
