"""Whether all processes of a run are about to do the same: with the same params, on the same images."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from config.params import Params
from data.samples import Dataset, fingerprint
from engine.step import choose_compilation
from utils.distributed import broadcast_from_rank0, fail_together
from utils.errors import DataError, ParamsError
from utils.precision import choose_precision

OF_A_MACHINE = (
    "batches_dir",
    "working_dir",
    "parallels",
    "pretrain_snapshot",
    "distillation.teacher",
    "gan_params.condition",
    "gan_params.measured_by",
    "gan_params.pretrain_snapshot_g",
    "gan_params.pretrain_snapshot_d",
)
"""Keys that say where something lies, which may be elsewhere on another machine."""
FREE = (
    "epoch",
    "gan_params.epoch",
    "log_every",
    "data_cache",
    "keep_freed_memory",
    "max_bad_steps",
    "checkpoint.every_steps",
    "checkpoint.every_minutes",
)
"""Keys that change nothing about the steps, which a run may therefore go on with changed."""


def check_alike(params: Params, dataset: Dataset) -> None:
    """Compare params and data set with those of the other processes.

    Raises:
        UserError: they differ; every process stops.
    """
    settings = settings_of(params)
    _check_same(settings, "params")
    mine = {name: fingerprint(split) for name, split in zip(Dataset._fields, dataset, strict=True)}
    first = broadcast_from_rank0(mine)
    with fail_together():
        if mine != first:
            differing = ", ".join(name for name in mine if mine[name] != first[name])
            raise DataError(
                f"{params.batches_dir}: not the data set that process 0 has: {differing}, in names, identities, "
                "cameras or their number"
            )


def settings_of(params: Params) -> dict[str, Any]:
    """All settings by dotted name, but for those that say where something lies."""
    return {name: value for name, value in _flat(params.model_dump(mode="json")) if name not in OF_A_MACHINE}


def check_machines(params: Params, device: torch.device) -> None:
    """Compare what this process computes with, and how, with the other processes.

    Raises:
        UserError: they differ; every process stops.
    """
    with fail_together():
        precision, compilation = choose_precision(params.precision, device), choose_compilation(params.compile, device)
    means = {
        "kind of device": device.type,
        "precision": precision.name,
        "compile": compilation,
        "version of torch": torch.__version__,
    }
    _check_same(means, "means")


def _check_same(mine: dict[str, Any], what: str) -> None:
    first = broadcast_from_rank0(mine)
    with fail_together():
        if different := [
            f"{name} is {mine.get(name)!r}, but {first.get(name)!r} in process 0"
            for name in sorted(mine | first)
            if mine.get(name) != first.get(name)
        ]:
            raise ParamsError(f"the processes of a run must have the same {what}: {'; '.join(different)}")


def _flat(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a section and of all inside it, by dotted name."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value
