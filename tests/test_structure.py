"""Imports point one way: a package may use what lies below it, never what lies above or beside it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BELOW = {
    "utils": set(),
    "data": {"utils"},
    "models": {"utils"},
    "losses": {"utils", "data", "models"},
    "config": {"utils", "data", "models", "losses"},
    "evaluate": {"utils", "data", "models", "losses", "config"},
    "engine": {"utils", "data", "models", "losses", "config", "evaluate"},
    "gan": {"utils", "data", "models", "losses", "config", "evaluate", "engine"},
    "unsupervised": {"utils", "data", "models", "losses", "config", "evaluate", "engine"},
    "audit": {"utils", "data", "models", "losses", "config", "evaluate", "engine"},
    "deploy": {"utils", "data", "models", "config", "evaluate"},
    "examples": {"utils", "data", "models", "losses", "config", "evaluate", "engine", "deploy"},
}


def imported_packages(path: Path) -> set[str]:
    """First names of everything a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module).partition(".")[0])
    return names


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    upward = {
        str(path.relative_to(ROOT)): wrong
        for path in files
        if (wrong := (imported_packages(path) & BELOW.keys()) - BELOW[package] - {package})
    }
    assert upward == {}


def test_no_package_is_left_out() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages == BELOW.keys()
