"""Whether all processes of a run are about to do the same: with the same params, on the same images."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from config.params import Params
from data.samples import Dataset
from utils.agreement import agreed
from utils.distributed import from_main
from utils.errors import DataError, ParamsError

OF_A_MACHINE = ("batches_dir", "working_dir", "parallels", "pretrain_snapshot", "distillation.teacher")
"""Keys that say where something lies, which may be elsewhere on another machine."""


def check_alike(params: Params, dataset: Dataset) -> None:
    """Compare params and data set with those of the other processes.

    Raises:
        UserError: they differ; every process stops.
    """
    settings = {name: value for name, value in _flat(params.model_dump(mode="json")) if name not in OF_A_MACHINE}
    print_of_data = fingerprint(dataset)
    first_settings, first_print = from_main((settings, print_of_data))
    with agreed():
        if different := [
            f"{name} is {settings.get(name)!r}, but {first_settings.get(name)!r} in process 0"
            for name in sorted(settings | first_settings)
            if settings.get(name) != first_settings.get(name)
        ]:
            raise ParamsError(f"the processes of a run must have the same params: {'; '.join(different)}")
        if print_of_data != first_print:
            raise DataError(
                f"{params.batches_dir}: not the data set that process 0 has: {_sizes(dataset)}; names, identities or "
                "cameras differ"
            )


def fingerprint(dataset: Dataset) -> str:
    """Tells data sets apart by the names of their images, identities, cameras and order, not by where they lie."""
    digest = hashlib.sha256()
    for name, split in zip(Dataset._fields, dataset, strict=True):
        digest.update(f"{name} {len(split)}\n".encode())
        for sample in split:
            digest.update(f"{sample.path.name} {sample.pid} {sample.camid}\n".encode())
    return digest.hexdigest()


def _sizes(dataset: Dataset) -> str:
    return ", ".join(f"{len(split)} {name}" for name, split in zip(Dataset._fields, dataset, strict=True))


def _flat(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a section and of all inside it, by dotted name."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value
