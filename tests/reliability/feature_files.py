"""Feature files to spoil, and what becomes of them."""

from pathlib import Path

import numpy as np
import torch

from data.features import Features, TestFeatures, read_features, write_features
from data.samples import Sample
from utils.errors import DataError


def part(number: int) -> Features:
    draw = torch.Generator().manual_seed(number)
    pids, camids = torch.arange(number), torch.ones(number, dtype=torch.int64)
    samples = [Sample(Path(f"/images/{row}.png"), row, 1) for row in range(number)]
    return Features(torch.randn(number, 4, generator=draw), pids, camids, samples, (1, 3))


def write_ours(path: Path) -> None:
    write_features(path, TestFeatures(part(6), part(9)))


def arrays() -> dict[str, np.ndarray]:
    """What another program might write."""
    content = {f"{split}_features": part(6).features.numpy() for split in ("query", "gallery")}
    content |= {f"{split}_{kind}": np.arange(6) for split in ("query", "gallery") for kind in ("pids", "camids")}
    return content | {"branch_dims": np.array([1, 3])}


def write_foreign(path: Path) -> None:
    np.savez(path, allow_pickle=False, **arrays())


def write_compressed(path: Path) -> None:
    np.savez_compressed(path, allow_pickle=False, **arrays())


def same(one: TestFeatures, other: TestFeatures) -> bool:
    return all(
        all(a.equal(b) for a, b in zip(left[:3], right[:3], strict=True)) and left[3:] == right[3:]
        for left, right in zip(one, other, strict=True)
    )


def outcome(path: Path, original: TestFeatures) -> str:
    """What becomes of a file: "refused", "equal" to what was read before, or "changed"."""
    try:
        return "equal" if same(read_features(path), original) else "changed"
    except DataError as error:
        text = str(error)
    assert all(line.startswith(f"{path}: ") for line in text.splitlines())
    assert text
    return "refused"
