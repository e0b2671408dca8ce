"""The charts and images of reports as files, for papers and slides."""

import base64
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from evaluate.core.report.blocks import Block, Chart, ImageGroups, RankLists, Report, Shown
from evaluate.core.report.page import FOLDER
from utils.files import atomic_path


def write_images(page: Path, reports: Sequence[Report]) -> Path:
    """Write them into a folder beside the page of the reports, numbered in their order there; returns the folder.

    Charts are .svg files, all others .jpg or .png as on the page; the names say the section and the block.

    Raises:
        DataError: a file cannot be written.
    """
    folder = page.with_name(f"{page.stem}_images")
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [(part.title, block) for report in reports for part in report.sections for block in part.blocks]
    number = 0
    for title, block in blocks:
        for name, suffix, content in _images(block):
            number += 1
            words = re.sub(r"[^a-z0-9]+", "_", f"{title} {name}".lower()).strip("_")
            with atomic_path(folder / f"{number:03d}_{words[:60]}.{suffix}") as temporary:
                temporary.write_bytes(content)
    return folder


def _images(block: Block) -> Iterator[tuple[str, str, bytes]]:
    """Name, suffix and content of each file that a block gives."""
    if isinstance(block, Chart):
        yield block.title, "svg", _standalone(block.svg).encode()
    elif isinstance(block, RankLists):
        for row, ranks in enumerate(block.lists, start=1):
            yield from _decoded(f"list {row} query", ranks.query)
            for rank, shown in enumerate(ranks.retrieved, start=1):
                yield from _decoded(f"list {row} rank {rank} {shown.verdict}", shown)
    elif isinstance(block, ImageGroups):
        for group in block.groups:
            for shown in group.images:
                yield from _decoded(group.title, shown)


def _decoded(name: str, shown: Shown) -> Iterator[tuple[str, str, bytes]]:
    """The file of a picture; nothing where there is none to show."""
    if found := re.fullmatch(r"data:image/(\w+);base64,(.+)", shown.source):
        yield name, {"jpeg": "jpg"}.get(found[1], found[1]), base64.b64decode(found[2])


def _standalone(svg: str) -> str:
    """An <svg> element as a file: with the page's font and its colours on a light background."""
    colours: dict[str, str] = {}
    for name, value in re.findall(r"--([\w-]+):\s*([^;]+);", (FOLDER / "page.css").read_text(encoding="utf-8")):
        colours.setdefault(name, value)  # those of a dark page follow
    while "var(--" in svg:
        svg = re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], svg)
    namespace = "" if "xmlns=" in svg else ' xmlns="http://www.w3.org/2000/svg"'
    return svg.replace("<svg", f'<svg{namespace} font-family="sans-serif"', 1)
