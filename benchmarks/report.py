"""What every benchmark writes: tables in Markdown and the same figures as JSON, with date, hardware and versions."""

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from utils.files import write_json, write_text
from utils.process import num_cpus

Row = dict[str, Any]
"""Cells by column: text, a number, or a list of numbers, which Markdown shows as mean ± standard deviation."""


@dataclass
class Report:
    """Tables in the order they are added.

    Attributes:
        title: First line; says what was measured, with the sizes and settings that matter.
        device: "cpu" or "cuda".
        tables: Rows by caption.
        notes: Paragraphs below the tables.
    """

    title: str
    device: str = "cpu"
    tables: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Date, hardware and versions."""
        return environment(self.device)

    def markdown(self) -> str:
        """The report as text."""
        about = self.environment
        versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        parts = [self.title, f"{about['date']}; {about['hardware']}; {versions}"]
        for caption, rows in self.tables.items():
            parts += [caption] if caption else []
            parts.append(table(rows))
        return "\n\n".join([*parts, *self.notes]) + "\n"

    def save(self, out: Path | None) -> None:
        """Print the report; write it if `out` is given."""
        print(self.markdown(), flush=True)
        if out is not None:
            self.write(out)

    def write(self, out: Path) -> None:
        """Write OUT.md and OUT.json; `out` is a path without suffix."""
        out.parent.mkdir(parents=True, exist_ok=True)
        content = {"title": self.title, **self.environment, "tables": self.tables, "notes": self.notes}
        write_json(out.with_name(f"{out.name}.json"), content)
        write_text(out.with_name(f"{out.name}.md"), self.markdown())


def environment(device: str) -> dict[str, Any]:
    """Date, hardware and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())
    hardware = f"{models[0] if models else platform.machine()}, {num_cpus()} cores, {threads} threads"
    hardware = f"{torch.cuda.get_device_name()}; {hardware}" if device == "cuda" else f"{hardware}, no GPU"
    versions = {"python": platform.python_version(), **{name: version(name) for name in ("torch", "torchvision")}}
    if device == "cuda":
        versions |= {"CUDA": str(torch.version.cuda), "driver": driver_version()}
    return {"date": date.today().isoformat(), "hardware": hardware, "versions": versions}


def driver_version() -> str:
    """That of the GPU's driver; "unknown" where nvidia-smi does not tell it."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.partition("\n")[0].strip()


def table(rows: Sequence[Row]) -> str:
    """A Markdown table with the columns of all rows; numbers are aligned to the right."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    is_number = {column: not any(isinstance(row.get(column), str) for row in rows) for column in columns}
    lines = [columns, ["---:" if is_number[column] else "---" for column in columns]]
    lines += [[in_words(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def in_words(value: Any) -> str:
    """One cell."""
    if value is None:
        return ""
    if isinstance(value, list):
        mean, spread = mean_and_spread(value)
        return number(mean) if len(value) == 1 else f"{number(mean)} ± {number(spread, like=mean)}"
    return number(value) if isinstance(value, float) else str(value)


def number(value: float, like: float | None = None) -> str:
    """A number with three or four digits, or with as many decimals as `like` has."""
    size = abs(value if like is None else like)
    if like is None and 0 < size < 5e-4:
        return f"{value:.1e}"
    decimals = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 4
    return f"{value:,.{decimals}f}"


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; a single value has none."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
