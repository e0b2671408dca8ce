"""Checkpoint files: written completely or not at all; read only if undamaged, without executing anything."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.errors import DataError, UserError, first_line, optional_imports
from utils.files import ZIP_START, atomic_path, check_archive

FORMAT = 1
MODEL_BEST = "model_best.pth"
"""In a run's folder: the best model so far; with evaluation off, the last."""
HUB_WEIGHTS = "model.safetensors"
"""In a hub folder: the weights; config.json beside it has the rest of the checkpoint."""
GENERATOR = "generator.pth"
"""In a run's folder: the trained person generator."""
LAST = "last.pth"
"""In a run's folder: the state to resume from; only while the run is unfinished."""


STATE_DICTS = ("model", "state_dict", "module", "teacher", "target_encoder")
"""Where files have their weights; the last are those that self-supervised training (DINO, MSN) keeps."""


class _NumpyType:
    """Stands for the type of a number of numpy in a file; nothing of it is read."""

    def __init__(self, *_arguments: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


def _numpy_number(*_arguments: object) -> None:
    """Stands for a number of numpy in a file, such as a metric beside other frameworks' weights: read as None."""


HARMLESS: list[Any] = [
    (_NumpyType, "numpy.dtype"),
    (_numpy_number, "numpy.core.multiarray.scalar"),
    (_numpy_number, "numpy._core.multiarray.scalar"),
]
"""What is called, without effect, for names in a file that torch would refuse."""


class Checkpoint(NamedTuple):
    """A trained model with its params, labels and metrics."""

    model: dict[str, Tensor]
    """State dict of the network, on the CPU."""
    params: dict[str, Any]
    """The run's resolved params, as JSON holds them."""
    labels: list[int]
    """Sorted pids of the training set; the position is the class index."""
    metrics: dict[str, float]
    """Of the evaluation of this model; empty without one."""


def model_in(folder: Path) -> Path | None:
    """The model in a run's or hub folder; None if there is none."""
    return next((folder / name for name in (MODEL_BEST, HUB_WEIGHTS) if (folder / name).is_file()), None)


def is_finished(run: Path) -> bool:
    """Whether the run is finished: it has a model or a generator, and no state to resume from."""
    return any((run / name).is_file() for name in (MODEL_BEST, GENERATOR)) and not (run / LAST).exists()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in the documented format, atomically."""
    save_tensors(path, {"format": FORMAT, **checkpoint._asdict()})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, or the model.safetensors of a hub folder.

    Raises:
        DataError: the file is missing, damaged, unsafe to load or not of this format; names the wrong entry.
    """
    if path.suffix == ".safetensors":
        # Only here, as few use it.
        from utils.hub import check_digest, read_config

        config = read_config(path)
        check_digest(path, config)
        content = {**config, "model": load_tensors(path)}
    else:
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
    """The tensors of a checkpoint or a bare state dict, without the prefixes of wrappers.

    Raises:
        DataError: the file is missing, damaged, unsafe to load or holds no named tensors.
    """
    content = load_tensors(path)
    for key in STATE_DICTS:
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
    """torch.save through a temporary file beside the target."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(dict(content), file)
        except RuntimeError as error:
            # An interrupt or a full disk stops torch.save amid its archive, which it then fails to close: that failure
            # must not hide the reason.
            if isinstance(error.__context__, KeyboardInterrupt | OSError):
                raise error.__context__ from None
            raise


def load_tensors(path: Path) -> Any:
    """torch.load on the CPU: runs no code, and compares every record of the file to its checksum.

    Files that torch wrote before version 1.6 and .safetensors files have no checksums: changed numbers in them go
    unnoticed.

    Raises:
        DataError: the file is missing, damaged or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            # torch warns of foreign pickles before it refuses them.
            warnings.simplefilter("ignore", UserWarning)
            if file.read(len(ZIP_START)) == ZIP_START:
                check_archive(path, file)
            file.seek(0)
            # The encoding of bytes in files of Python 2.
            return torch.load(file, map_location="cpu", weights_only=True, encoding="latin1")
    except UserError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    # Unpickling raises errors of any type.
    except Exception as error:
        # torch's own message of a refused type advises to switch the check off; the error behind it names the type.
        cause = error.__context__ if isinstance(error, pickle.UnpicklingError) else None
        why, advice = first_line(cause or error), ""
        if found := re.match(r"Unsupported global: GLOBAL (\S+)", why):
            why = f"a pickled {found[1]} in it may run code"
            advice = "; save the weights alone where it was made: torch.save(model.state_dict(), FILE)"
        raise DataError(f"{path}: not a checkpoint that can be loaded safely ({why}){advice}") from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    with optional_imports(str(path), "pip install safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a safetensors file: {first_line(error)}") from error


def _maps_names(value: Any, kind: type) -> bool:
    """Whether the value is a mapping of strings to values of the kind."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(entry, kind) for name, entry in value.items()
    )


def _other_shape(path: Path, key: str, expected: str, value: Any) -> DataError:
    """An error that names the types found in an entry."""
    got = type(value).__name__
    if isinstance(value, Mapping):
        kinds = {f"{type(name).__name__} to {type(entry).__name__}" for name, entry in value.items()}
        got = f"{got} of {', '.join(sorted(kinds))}"
    elif isinstance(value, list):
        got = f"{got} of {', '.join(sorted({type(entry).__name__ for entry in value}))}"
    return DataError(f"{path}: not a checkpoint of this framework; {key}: expected {expected}, got {got}")


def check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise if weights are not finite.

    Raises:
        DataError: some hold NaN or infinity; names them.
    """
    bad = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise DataError(f"{path}: {', '.join(bad[:3])}{more}: hold NaN or infinity; take another checkpoint")
