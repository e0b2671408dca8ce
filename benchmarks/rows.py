"""What each recipe of an ablation changes, and against which other."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.load import load_params
from evaluate.core.plugins import plugin_options
from utils.errors import ParamsError

RUN_KEYS = ("distillation.teacher", "pretrain_snapshot")
"""Settings that may name the run of another recipe."""
_RUN = re.compile(r"(?:.*/)?(?P<stem>[^/]+)_seed\d+(?P<file>/[^/]+\.pth)?")
_NOT_OF_A_ROW = ("seed", "working_dir")


@dataclass(frozen=True)
class Row:
    """One recipe."""

    path: Path
    parent: str
    """Name of the row it extends; "" = none of this ablation."""
    changes: dict[str, tuple[Any, Any]]
    """Settings, dotted, with the parent's value and its own; empty without a parent."""

    @property
    def name(self) -> str:
        """That of the file."""
        return self.path.stem


def run_name(recipe: str, seed: int) -> str:
    """The folder of a recipe's run."""
    return f"{recipe}_seed{seed}"


def read_rows(recipes: Sequence[Path], overrides: Sequence[str]) -> list[Row]:
    """The rows in the order of the recipes.

    Raises:
        ParamsError: a recipe is invalid, or two have the same name.
    """
    names = [path.stem for path in recipes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ParamsError(f"several recipes are called {', '.join(twice)}; runs take their names from them")
    flat = {path.resolve(): flattened(resolved(path, overrides)) for path in recipes}
    rows = []
    for path in recipes:
        base = json.loads(path.read_text(encoding="utf-8")).get("extends")
        parent = (path.parent / base).resolve() if base else None
        changes = {} if parent not in flat else changed(flat[parent], flat[path.resolve()])
        rows.append(Row(path, parent.stem if parent in flat and parent else "", changes))
    return rows


def resolved(recipe: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """All settings of a recipe, as a run's folder holds them."""
    return load_params(recipe, overrides, plugin_options=plugin_options).params.model_dump(mode="json")


def flattened(params: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        flat |= flattened(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two rows' settings."""
    keys = [key for key in after if key not in _NOT_OF_A_ROW and before.get(key) != after[key]]
    return {key: (before.get(key), after[key]) for key in keys}


def in_words(row: Row) -> str:
    """What a row changes, as a table's cell says it."""
    words = []
    for key, (before, after) in row.changes.items():
        # "part_bn" says it all; "probability" or "type" would not.
        name = key.partition(".")[2] or key
        if isinstance(after, bool):
            words.append(f"{name} {'on' if after else 'off'}")
        elif key in RUN_KEYS and (match := _RUN.fullmatch(after)):
            words.append(f"{name} {match['stem']}")
        else:
            words.append(f"{name} {_value(before)} → {_value(after)}")
    return ", ".join(words)


def named_runs(params: dict[str, Any], recipes: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Which settings name a run of another of the recipes: that recipe, and the file of the run ("" = its folder)."""
    flat = flattened(params)
    matches = {key: _RUN.fullmatch(flat[key]) for key in RUN_KEYS}
    return {
        key: (match["stem"], match["file"] or "")
        for key, match in matches.items()
        if match and match["stem"] in recipes
    }


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else "none"
