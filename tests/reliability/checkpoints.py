"""Checkpoints to spoil, and what becomes of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.checkpoint import Checkpoint, load_tensors, save_checkpoint
from utils.errors import DataError


def same(one: Any, other: Any) -> bool:
    """Whether two contents of a file are equal, types included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        # As bytes: a flipped bit may have made a NaN.
        alike = (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        return alike and one.flatten().view(torch.uint8).equal(other.flatten().view(torch.uint8))
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def network_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(5, 6))
    return network.state_dict() | {"half": torch.randn(9).bfloat16(), "turned": torch.randn(3, 4).t()}


def write_ours(path: Path) -> None:
    params = {"lr": {"base_lr": 0.1, "decay_step": [1, 2]}, "batches_dir": "market", "fine_tune": False}
    save_checkpoint(path, Checkpoint(network_state(), params, [3, 7, 12], {"mAP": 0.5}))


def write_foreign(path: Path) -> None:
    torch.save({"state_dict": network_state(), "epoch": 3}, path)


def write_before_archives(path: Path) -> None:
    torch.save({"state_dict": network_state(), "epoch": 3}, path, _use_new_zipfile_serialization=False)


def outcome(path: Path, original: Any, read: Callable[[Path], Any] = load_tensors) -> str:
    """What becomes of a file: "refused", "equal" to what was read before, or "changed"."""
    try:
        return "equal" if same(read(path), original) else "changed"
    except DataError as error:
        text = str(error)
    assert text.startswith(f"{path}: ")
    assert len(text.splitlines()) == 1
    return "refused"
