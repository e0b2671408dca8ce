"""What a saved state belongs to: with other data, settings or means it would go on as another run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config.params import Params
from data.samples import Dataset, fingerprint
from engine.alike import FREE, settings_of
from utils.distributed import this_process
from utils.errors import DataError

NUMBER_OF_PROCESSES = "number of processes"


def belonging_of(params: Params, dataset: Dataset, means: Mapping[str, str | None]) -> dict[str, Any]:
    """What must not have changed when a run goes on, as plain values by name.

    Args:
        params: of the run.
        dataset: what it trains on and is measured by.
        means: what else decides about every bit: the kind of device, the number format, the teacher's weights.
    """
    images = {f"{name} images": fingerprint(split) for name, split in zip(Dataset._fields, dataset, strict=True)}
    settings = {f"params {name}": value for name, value in settings_of(params).items() if name not in FREE}
    return {NUMBER_OF_PROCESSES: this_process().world_size, **means, **images, **settings}


def check_belonging(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare what a state belonged to with what there is now.

    Raises:
        DataError: they differ; names everything that does.
    """
    if different := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        listing = "; ".join(_difference(name, before.get(name), now.get(name)) for name in different)
        raise DataError(f"{path}: the run goes on only as it began: {listing}")


def _difference(name: str, before: object, now: object) -> str:
    if name.endswith(" images"):
        return f"{name}: other names, identities or cameras than the run began with"
    if name == NUMBER_OF_PROCESSES:
        return f"{name}: the run began with {before}, now it is {now}; each would get another part of every batch"
    return f"{name}: the run began with {_brief(before)}, now it is {_brief(now)}"


def _brief(value: object) -> str:
    """A value as a message shows it."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
