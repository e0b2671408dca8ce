"""Checkpoints and feature files to damage, and the outcome of reading them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.features import Features, TestFeatures, write_features
from tests.data.test_features import features as make_features
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import DataError


def network_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(5, 6))
    return network.state_dict() | {"half": torch.randn(9).bfloat16(), "transposed": torch.randn(3, 4).t()}


def write_checkpoint(path: Path) -> None:
    params = {"lr": {"base_lr": 0.1, "decay_step": [1, 2]}, "batches_dir": "market", "fine_tune": False}
    save_checkpoint(path, Checkpoint(network_state(), params, [3, 7, 12], {"mAP": 0.5}))


def write_foreign_checkpoint(path: Path) -> None:
    torch.save({"state_dict": network_state(), "epoch": 3}, path)


def write_legacy_checkpoint(path: Path) -> None:
    """As torch before 1.6 wrote it."""
    torch.save({"state_dict": network_state(), "epoch": 3}, path, _use_new_zipfile_serialization=False)


def features(number: int) -> Features:
    return make_features(number, named=True, branch_dims=(1, 3))


def arrays() -> dict[str, np.ndarray]:
    """A feature file of another program."""
    content = {f"{split}_features": features(6).features.numpy() for split in ("query", "gallery")}
    content |= {f"{split}_{kind}": np.arange(6) for split in ("query", "gallery") for kind in ("pids", "camids")}
    return content | {"branch_dims": np.array([1, 3])}


def write_feature_file(path: Path) -> None:
    write_features(path, TestFeatures(features(6), features(9)))


def write_foreign_feature_file(path: Path) -> None:
    np.savez(path, allow_pickle=False, **arrays())


def write_compressed_feature_file(path: Path) -> None:
    np.savez_compressed(path, allow_pickle=False, **arrays())


def same(one: Any, other: Any) -> bool:
    """Whether two contents of a file are equal, types included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        # As bytes, since a flipped bit may have made a NaN.
        alike = (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        return alike and one.flatten().view(torch.uint8).equal(other.flatten().view(torch.uint8))
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def outcome(path: Path, original: Any, read: Callable[[Path], Any]) -> str:
    """The outcome of reading a file: "refused", "equal" to the original, or "changed"."""
    try:
        return "equal" if same(read(path), original) else "changed"
    except DataError as error:
        lines = str(error).splitlines()
    assert lines
    assert all(line.startswith(f"{path}: ") for line in lines)
    return "refused"
