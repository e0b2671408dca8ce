"""The commands of the documentation are valid, and what it names exists."""

import argparse
import importlib.util
import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from config.load import load_eval_params, load_params, params_from_dict
from evaluate.core.offline import DEFAULT_PLUGIN
from evaluate.core.plugins import plugin_options
from tests.conftest import ROOT
from tests.scripts.documents import (
    FOLDERS,
    PAGES,
    RESULTS,
    STORY,
    blocks,
    commands,
    drawn_paths,
    headings,
    inline_commands,
    links,
    named_paths,
)

COMMANDS = sorted({command for page in PAGES for command in commands(page) + inline_commands(page)})
RUN_FILES = {"params.json", "metrics.jsonl", "model_best.pth", "last.pth", "generator.pth"}
HUB_FILES = {"config.json", "reid_config.json"}
AUDIT_FILES = {"audit.json"}
"""Files of a run folder, of a hub folder, and of an audit."""


class Parsed(BaseException):
    """Raised in place of the work that a command would begin; no handler of errors catches it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch):
    """Runs a Python file up to the parsed arguments of its command line."""
    original = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *arguments: object) -> NoReturn:
        raise Parsed(original(parser, *arguments))  # pyright: ignore[reportCallIssue, reportArgumentType]

    def run(path: Path, arguments: list[str]) -> argparse.Namespace:
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        with pytest.raises(Parsed) as parsed:
            runpy.run_path(str(path), run_name="__main__")
        return parsed.value.arguments

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_valid(command: str, parse) -> None:
    words = shlex.split(command)
    for word in words:
        if word.split("/")[0] in ("recipes", "tests", "benchmarks", "docs", "examples") and "--out" not in command:
            assert list(ROOT.glob(word)), f"{word} does not exist"
    match words:
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        case ["pip", "install", "-r", name]:
            assert (ROOT / name).is_file()
        case ["tensorboard", "--logdir", _]:
            assert importlib.util.find_spec("tensorboard")
        case ["python" | ".venv/bin/python", "-m", "pytest", *_]:
            pass
        case ["python", "-m", module, *arguments]:
            parse(file_of(module), arguments)
        case ["python", name, *arguments] if name.endswith(".py"):
            check_settings(name, parse(ROOT / name, arguments))
        case ["torchrun", *_]:
            place = next(place for place, word in enumerate(words) if word.endswith(".py"))
            check_settings(words[place], parse(ROOT / words[place], words[place + 1 :]))
        case _:
            pytest.fail("a command of this kind is not checked; add it to this test")


def file_of(module: str) -> Path:
    """The file that `python -m` runs."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin)
    return path.with_name("__main__.py") if path.name == "__init__.py" else path


def check_settings(script: str, arguments: argparse.Namespace) -> None:
    """Every key after --set exists, and the params file with these values is valid."""
    if script == "train.py":
        load_params(arguments.config_path, arguments.set, plugin_options=plugin_options)
    elif script == "evaluator.py":
        path = Path(arguments.path)
        load_eval_params(
            path if path.suffix == ".json" else None,
            arguments.set,
            plugin_options=plugin_options,
            plugin_of=lambda _: DEFAULT_PLUGIN,
        )


@pytest.mark.parametrize("settings", blocks(ROOT / "docs" / "training.md", "json"))
def test_settings_shown_for_a_training_are_valid(settings: str) -> None:
    params_from_dict(json.loads(settings), "docs/training.md", plugin_options)


def test_the_strong_baseline_shown_is_its_recipe() -> None:
    shown = [json.loads(settings) for settings in blocks(ROOT / "docs" / "training.md", "json")]
    recipe = json.loads((ROOT / "recipes" / "field" / "bot.json").read_text())
    del recipe["$schema"]
    assert recipe in shown


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_exists(page: Path) -> None:
    missing = []
    for target in links(page):
        name, _, heading = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (heading and heading not in headings(path)):
            missing.append(target)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_and_definitions_that_a_page_names_exist(page: Path) -> None:
    assert sorted(named for named in named_paths(page) - RUN_FILES - HUB_FILES - AUDIT_FILES if not exists(named)) == []


def exists(named: str) -> bool:
    """Whether there is such a file or folder, at the top or in a package, with the definition after "::"."""
    path, _, name = named.partition("::")
    found = list(ROOT.glob(path)) or [file for folder in FOLDERS for file in (ROOT / folder).rglob(path)]
    if not found or not name:
        return bool(found)
    return bool(re.search(rf"^\s*(def|class) {name}\b|^{name}\b.*=", found[0].read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").glob("*.svg")), ids=lambda picture: picture.name)
def test_the_files_that_a_picture_names_exist(picture: Path) -> None:
    paths = drawn_paths(picture)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = STORY[0].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= links(STORY[0])
    for page in (ROOT / "docs").glob("*/*.md"):
        assert f"{page.parent.name}/{page.name}" in links(page.parent.with_suffix(".md"))
    assert {"make train", "make test"} <= set(commands(STORY[0]))
