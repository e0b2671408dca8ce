"""The pages of the documentation, and what tests read from them."""

import re
from pathlib import Path

from tests.conftest import ROOT

STORY = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("*/*.md"))]
"""The pages whose commands run one after the other, in this order."""

PAGES = [
    *STORY,
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("recipes/*/README.md")),
    *sorted(ROOT.glob("examples/**/*.md")),
]

RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
"""Dated measurements; the commands in them may be of an older version."""

FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."} - {"runs", "datasets"}
"""The repository's own folders at the top."""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The commands of all bash blocks, without comments; a backslash continues a line."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def inline_commands(page: Path) -> list[str]:
    """The make targets and benchmarks that code spans name."""
    spans = re.findall(r"`((?:make|python -m benchmarks\.)[^`]*)`", page.read_text(encoding="utf-8"))
    return [span.replace("\n", " ") for span in spans]


def links(page: Path) -> set[str]:
    """The targets of links and pictures that lie in the repository, with the heading after "#" if there is one."""
    targets = re.findall(r"\]\(([^()\s]+)\)", page.read_text(encoding="utf-8"))
    return {target for target in targets if "://" not in target}


def named_paths(page: Path) -> set[str]:
    """The files and folders of the repository that code spans name; `FILE::NAME` names a definition.

    A name in capitals, as in `evaluate/NAME.py`, stands for any.
    """
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`((?!/)[\w.*/-]+(?:::\w+)?)`", text)
    paths = {
        span for span in spans if span.split("/")[0] in FOLDERS or span.split("::")[0].endswith((".py", ".md", ".json"))
    }
    return {path for path in paths if not re.search(r"\b[A-Z]+\b(?!\.md)", path)}


def drawn_paths(picture: Path) -> set[str]:
    """The files and folders that the texts of an SVG name."""
    return set(re.findall(r">([\w/]+(?:\.py|/))", picture.read_text(encoding="utf-8")))


def headings(page: Path) -> set[str]:
    """The headings as links name them: small letters, hyphens for spaces, no punctuation."""
    titles = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
