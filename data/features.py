"""Embeddings of images, and the feature files (.npz) that carry them from one framework to another."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.samples import Sample
from utils.errors import DataError, UserError, first_line
from utils.files import ZIP_START, atomic_path, check_archive

SPLITS = ("query", "gallery")
BRANCH_DIMS = "branch_dims"
NPY = b"\x93NUMPY"
"""Signature of a file with a single array."""
_KNOWN = {f"{split}_{kind}" for split in SPLITS for kind in ("features", "pids", "camids", "paths")} | {BRANCH_DIMS}


class Features(NamedTuple):
    """Embeddings of N images with their identities and cameras, on the CPU."""

    features: Tensor
    """(N, D) float32, not necessarily of unit length."""
    pids: Tensor
    """(N,) int64."""
    camids: Tensor
    """(N,) int64."""
    samples: list[Sample]
    """The images in the same order; empty if a feature file does not name them."""
    branch_dims: tuple[int, ...] = ()
    """Sizes of the branches that an embedding consists of, in order; empty if unknown."""

    def at(self, rows: Tensor) -> "Features":
        """The embeddings of the given (R,) int64 rows, in their order."""
        samples = [self.samples[row] for row in rows.tolist()] if self.samples else []
        return self._replace(
            features=self.features[rows], pids=self.pids[rows], camids=self.camids[rows], samples=samples
        )


class TestFeatures(NamedTuple):
    """The two sides of a retrieval test; their embeddings have the same size."""

    __test__ = False  # not a test case for pytest

    query: Features
    gallery: Features


def write_features(path: Path, features: TestFeatures) -> None:
    """Write a feature file: for query and gallery `_features` (N, D) float32, `_pids`, `_camids` (N,) int64.

    It also contains the absolute `_paths` (N,) of the images, if known, and `branch_dims`, if embeddings have branches.
    """
    arrays: dict[str, np.ndarray] = {}
    for split, part in zip(SPLITS, features, strict=True):
        arrays[f"{split}_features"] = part.features.numpy()
        arrays[f"{split}_pids"] = part.pids.numpy()
        arrays[f"{split}_camids"] = part.camids.numpy()
        if part.samples:
            arrays[f"{split}_paths"] = np.array([str(sample.path.absolute()) for sample in part.samples])
    if features.gallery.branch_dims:
        arrays[BRANCH_DIMS] = np.array(features.gallery.branch_dims)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_features(path: Path) -> TestFeatures:
    """Read a feature file, made by `write_features` or by any other program that writes these arrays.

    The checksums of the arrays are verified.

    Raises:
        DataError: the file cannot be used; the message lists all of its errors.
    """
    arrays = _arrays(path)
    problems: list[str] = []
    parts = [_part(arrays, split, problems) for split in SPLITS]
    dims = {part.features.shape[1] for part in parts if part is not None}
    if len(dims) > 1:
        shapes = " and ".join(f"{split}_features {arrays[f'{split}_features'].shape}" for split in SPLITS)
        problems.append(f"{shapes}: embeddings of different sizes cannot be compared")
    branch_dims = _branch_dims(arrays, dims, problems)
    if problems:
        raise DataError("\n".join(f"{path}: {problem}" for problem in problems))
    query, gallery = (part._replace(branch_dims=branch_dims) for part in parts if part is not None)
    return TestFeatures(query, gallery)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The known arrays of the file; nothing in it is executed.

    Raises:
        DataError: the file is missing, damaged or no feature file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            start = file.read(len(NPY))
            if start == NPY:
                raise DataError(f"{path}: one array only; expected an .npz file with {_needed()}")
            if not start.startswith(ZIP_START):
                raise ValueError("no zip archive")
            check_archive(path, file)
            file.seek(0)
            with np.load(file, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files if name in _KNOWN}
    except UserError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    # numpy raises errors of many types for invalid arrays.
    except Exception as error:
        raise DataError(f"{path}: not a feature file that can be read safely ({first_line(error)})") from error
    if bad := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise DataError(f"{path}: not a feature file that can be read safely ({bad[0]} is no array)")
    return arrays


def _part(arrays: Mapping[str, np.ndarray], split: str, problems: list[str]) -> Features | None:
    """One side of the file; None after adding its errors to `problems`."""
    names = [f"{split}_{kind}" for kind in ("features", "pids", "camids")]
    if missing := [name for name in names if name not in arrays]:
        problems.append(f"lacks {', '.join(missing)}; a feature file has {_needed()}")
        return None
    features, pids, camids = (arrays[name] for name in names)
    before = len(problems)
    if features.ndim != 2 or features.shape[1] == 0 or features.dtype.kind not in "fiu":
        problems.append(f"{names[0]}: expected numbers of shape (N, D), got {features.dtype} {features.shape}")
    else:
        with np.errstate(over="ignore"):
            features = np.require(features, np.float32, "C")  # too large values become infinite
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(bad):
            problems.append(f"{names[0]}: {len(bad)} of {len(features)} rows hold NaN or infinity, the first: {bad[0]}")
    for name, numbers in zip(names[1:], (pids, camids), strict=True):
        if numbers.shape != features.shape[:1] or numbers.dtype.kind not in "iu":
            expected = f"whole numbers of shape ({len(features) if features.ndim else 'N'},)"
            problems.append(f"{name}: expected {expected}, got {numbers.dtype} {numbers.shape}")
        elif len(numbers) and int(numbers.max()) > np.iinfo(np.int64).max:
            problems.append(f"{name}: {numbers.max()} is too large for a signed number of 64 bits")
    paths = _paths(arrays.get(f"{split}_paths"), split, features.shape[:1], problems)
    if len(problems) > before:
        return None
    pid_tensor, camid_tensor = (torch.from_numpy(numbers.astype(np.int64)) for numbers in (pids, camids))
    samples = [] if paths is None else list(map(Sample, map(Path, paths), pids.tolist(), camids.tolist()))
    return Features(torch.from_numpy(features), pid_tensor, camid_tensor, samples)


def _paths(paths: np.ndarray | None, split: str, shape: tuple[int, ...], problems: list[str]) -> list[str] | None:
    """The paths of the images; None if the file has none, or after adding their errors to `problems`."""
    if paths is None:
        return None
    if paths.shape != shape or paths.dtype.kind != "U":
        problems.append(f"{split}_paths: expected texts, as many as features, got {paths.dtype} {paths.shape}")
        return None
    try:
        names = paths.tolist()
    except (ValueError, SystemError) as error:
        # Numbers beyond Unicode.
        problems.append(f"{split}_paths: expected texts: {first_line(error)}")
        return None
    if bad := [row for row, name in enumerate(names) if not name or "\0" in name]:
        problems.append(f"{split}_paths: {len(bad)} of {len(names)} name no file, the first: {bad[0]}")
    return names


def _branch_dims(arrays: Mapping[str, np.ndarray], dims: set[int], problems: list[str]) -> tuple[int, ...]:
    sizes = arrays.get(BRANCH_DIMS)
    if sizes is None:
        return ()
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or (sizes < 1).any():
        problems.append(f"{BRANCH_DIMS}: expected the sizes of the branches, got {sizes.dtype} {sizes.shape}")
        return ()
    if dims and {int(sizes.sum())} != dims:
        problems.append(f"{BRANCH_DIMS}: {sizes.tolist()} do not add up to the size of the embeddings, {min(dims)}")
    return tuple(sizes.tolist())


def _needed() -> str:
    return ", ".join(f"{split}_{kind}" for split in SPLITS for kind in ("features", "pids", "camids"))
