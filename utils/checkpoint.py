"""Checkpoint files: written whole or not at all; read only if undamaged, without executing anything."""

import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from utils.archives import START, check_room, open_archive
from utils.errors import DataError, UserError
from utils.files import atomic_path
from utils.pickle_outline import MAX_BYTES, UnsafeError, check_pickle
from utils.seal import Seal, SealingFile

FORMAT = 1
MODEL_BEST = "model_best.pth"
"""In a run's folder: the best model so far; with evaluation off, the last."""
GENERATOR = "generator.pth"
"""In a run's folder: the person generator that was trained in it."""
LAST = "last.pth"
"""In a run's folder: everything needed to go on; there only while the run is unfinished."""
_START_BEFORE_ARCHIVES = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
"""What torch before 1.6 began its files with: a pickle of a number that is the same in all of them."""


class Checkpoint(NamedTuple):
    """A trained model and what it takes to use it."""

    model: dict[str, Tensor]
    """State dict of the network, on the CPU."""
    params: dict[str, Any]
    """The run's resolved params, as JSON holds them."""
    labels: list[int]
    """Sorted pids of the training set; the position is the class index."""
    metrics: dict[str, float]
    """What the evaluation said of this model; empty if there was none."""


def is_finished(run: Path) -> bool:
    """Whether the run in a folder is through: it has its model or its generator, and nothing to go on from."""
    return any((run / name).is_file() for name in (MODEL_BEST, GENERATOR)) and not (run / LAST).exists()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in the documented format; a reader sees the old file or the new one, never a part."""
    save_tensors(path, {"format": FORMAT, **checkpoint._asdict()})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        DataError: the file is missing, damaged, unsafe to load or not of our format; of an entry of another type than
            ours, with the key.
    """
    content = load_tensors(path)
    expected = {"format", *Checkpoint._fields}
    if not isinstance(content, Mapping) or not expected <= content.keys():
        raise DataError(f"{path}: not a checkpoint of this framework; expected the keys {', '.join(sorted(expected))}")
    # The type first: True equals 1, and a tensor compares to a tensor.
    if type(content["format"]) is not int:
        raise _other_shape(path, "format", "a whole number", content["format"])
    if content["format"] != FORMAT:
        raise DataError(f"{path}: checkpoint format {content['format']}, this version reads format {FORMAT}")
    if not _maps_names(content["model"], Tensor):
        raise _other_shape(path, "model", "a mapping of names to tensors", content["model"])
    for key in ("params", "metrics"):
        if not _maps_names(content[key], object):
            raise _other_shape(path, key, "a mapping of names to values", content[key])
    labels = content["labels"]
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise _other_shape(path, "labels", "a list of whole numbers", labels)
    return Checkpoint(**{name: content[name] for name in Checkpoint._fields})


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint of ours or of a bare state dict, wrappers' prefixes removed.

    Raises:
        DataError: the file is missing, damaged, unsafe to load or holds no named tensors.
    """
    content = load_tensors(path)
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise DataError(f"{path}: holds no state dict (a mapping of names to tensors)")
    return {str(key).removeprefix("module.").removeprefix("_orig_mod."): value for key, value in content.items()}


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """torch.save with a checksum behind it, through a temporary file beside the target."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sealing = SealingFile(file)
        try:
            torch.save(dict(content), sealing)  # pyright: ignore[reportArgumentType]
        except RuntimeError as error:
            # Stopped amid writing, torch still tries to end its archive, and complains that it cannot; what stopped it,
            # an interrupt or a full disk, must not be hidden by that.
            if isinstance(error.__context__, KeyboardInterrupt | OSError):
                raise error.__context__ from None
            raise
        sealing.seal()


def load_tensors(path: Path) -> Any:
    """torch.load on the CPU for files of anybody: it runs no code, and damage does not go unnoticed.

    A file of ours is compared to its checksum. In one that torch.save alone wrote, each record has a checksum; in one
    of torch before 1.6 nothing has, and changed numbers in it cannot be told.

    Raises:
        DataError: the file is missing, damaged or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            # torch remarks on foreign pickles before it refuses them; the refusal says it all.
            warnings.simplefilter("ignore", UserWarning)
            # The same open file throughout: under its name another may lie a moment later.
            _check(path, file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    # Of whatever kind: what a stranger's file can make unpickling, zipfile and torch raise has no end.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: not a checkpoint that can be loaded safely ({reason})") from error


def _check(path: Path, file: BinaryIO) -> None:
    """See that a file is whole, as far as it can be seen, and that torch can read it without harm.

    Raises:
        DataError: it is damaged.
        UnsafeError: it is not harmless.
        Exception: of many kinds: it is no checkpoint.
    """
    if file.read(len(START)) == START:
        _check_archive(path, file)
    else:
        file.seek(0)
        _check_before_archives(path, file)


def _check_archive(path: Path, file: BinaryIO) -> None:
    """The same for an archive, which torch.save writes."""
    archive, seal = open_archive(path, file, compressed=False)
    if seal is Seal.NONE and (name := archive.testzip()) is not None:
        raise DataError(f"{path}: damaged: its record {name!a} does not fit its checksum; take another copy")
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    check_room(path, sum(sizes.values()))
    # All records lie in one folder, whose name is up to the writer.
    folder = archive.infolist()[0].filename.partition("/")[0]
    with archive.open(f"{folder}/data.pkl") as pickled:
        content = io.BytesIO(pickled.read(MAX_BYTES + 1))
    check_pickle(content, lambda key, size: sizes.get(f"{folder}/data/{key}") == size)


def _check_before_archives(path: Path, file: BinaryIO) -> None:
    """The same for what torch wrote before 1.6: five pickles, and the numbers behind them."""
    if file.read(len(_START_BEFORE_ARCHIVES)) != _START_BEFORE_ARCHIVES:
        raise UnsafeError("it does not begin as a file that torch wrote")
    size = file.seek(0, os.SEEK_END)
    check_room(path, size)
    file.seek(0)
    for _ in range(5):
        check_pickle(file, lambda key, needed: needed <= size)


def _maps_names(value: Any, kind: type) -> bool:
    """Whether it is a mapping of strings to values of the kind."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(entry, kind) for name, entry in value.items()
    )


def _other_shape(path: Path, key: str, expected: str, value: Any) -> DataError:
    """What is wrong with an entry, its types and those of what it holds in words."""
    got = type(value).__name__
    if isinstance(value, Mapping):
        kinds = {f"{type(name).__name__} to {type(entry).__name__}" for name, entry in value.items()}
        got = f"{got} of {', '.join(sorted(kinds))}"
    elif isinstance(value, list):
        got = f"{got} of {', '.join(sorted({type(entry).__name__ for entry in value}))}"
    return DataError(f"{path}: not a checkpoint of this framework; {key}: expected {expected}, got {got}")


def check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """See that weights can be computed with.

    Raises:
        DataError: some hold NaN or infinity; names them.
    """
    bad = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise DataError(f"{path}: {', '.join(bad[:3])}{more}: hold NaN or infinity; take another checkpoint")
