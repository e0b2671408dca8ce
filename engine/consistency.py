"""What must be the same in all processes of a run, and in a run that is resumed: settings, data and environment."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from config.params import Params
from data.samples import Dataset, fingerprint
from engine.sinks import check_loggers
from utils.distributed import broadcast_from_rank0, fail_together, this_process
from utils.errors import DataError, ParamsError
from utils.precision import choose_compilation, choose_precision

PATH_KEYS = (
    "batches_dir",
    "label_fixes",
    "test_dirs",
    "working_dir",
    "parallels",
    "pretrain_snapshot",
    "distillation.teacher",
    "gan_params.condition",
    "gan_params.measured_by",
    "gan_params.pretrain_snapshot_g",
    "gan_params.pretrain_snapshot_d",
)
"""Settings that say where something lies, which may be elsewhere on another machine."""
RESUMABLE_CHANGES = (
    "epoch",
    "gan_params.epoch",
    "log_every",
    "loggers",
    "data_cache",
    "keep_freed_memory",
    "max_bad_steps",
    "checkpoint.every_steps",
    "checkpoint.every_minutes",
    "clustering_params.eps",
    "clustering_params.k1",
    "clustering_params.k2",
)
"""Settings with other values of which a run may be resumed: they do not change the steps, or, those of the clustering,
act from the next epoch on, so that a run whose clusters have become too few can continue."""
NUM_PROCESSES = "number of processes"


def settings_of(params: Params) -> dict[str, Any]:
    """All settings by dotted name, but for paths."""
    return {name: value for name, value in _flat(params.model_dump(mode="json")) if name not in PATH_KEYS}


def check_environment(params: Params, device: torch.device) -> None:
    """Check that all processes compute alike; every process must call this.

    Raises:
        UserError: they do not, or the device does not have the precision or the compilation asked for, or a package
            for logging is not installed.
    """
    with fail_together():
        check_loggers(params.loggers)
        mine = {
            "kind of device": device.type,
            "precision": choose_precision(params.precision, device).name,
            "compile": choose_compilation(params.compile, device).mode,
            "version of torch": torch.__version__,
        }
    _check_same(mine, "environment")


def check_ranks_agree(params: Params, dataset: Dataset) -> None:
    """Check that all processes have the same settings and data; every process must call this.

    Raises:
        UserError: they do not.
    """
    _check_same(settings_of(params), "params")
    mine = {name: fingerprint(split) for name, split in zip(Dataset._fields, dataset, strict=True)}
    first = broadcast_from_rank0(mine)
    with fail_together():
        if mine != first:
            differing = ", ".join(name for name in mine if mine[name] != first[name])
            raise DataError(
                f"{params.data_name}: not the data set of process 0: {differing} differ in names, identities, "
                "cameras or number"
            )


def run_fingerprint(params: Params, dataset: Dataset, others: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change when a run is resumed, as plain values by name.

    Args:
        params: of the run.
        dataset: what it trains on and is evaluated on.
        others: the environment, and digests of networks that take part, such as a teacher.
    """
    images = {f"{name} images": fingerprint(split) for name, split in zip(Dataset._fields, dataset, strict=True)}
    settings = {f"params {name}": value for name, value in settings_of(params).items() if name not in RESUMABLE_CHANGES}
    return {NUM_PROCESSES: this_process().world_size, **others, **images, **settings}


def check_fingerprint(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare the fingerprint of a saved state with that of the run that is to resume from it.

    Raises:
        DataError: they differ; names everything that does.
    """
    if different := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        listing = "; ".join(_difference(name, before.get(name), now.get(name)) for name in different)
        raise DataError(f"{path}: was saved with different data, settings or environment: {listing}")


def _difference(name: str, before: object, now: object) -> str:
    if name.endswith(" images"):
        return f"{name}: other names, identities or cameras than the run began with"
    if name == NUM_PROCESSES:
        return f"{name}: the run began with {before}, now it is {now}; each would get another part of every batch"
    return f"{name}: the run began with {_brief(before)}, now it is {_brief(now)}"


def _brief(value: object) -> str:
    """A value as a message shows it."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
