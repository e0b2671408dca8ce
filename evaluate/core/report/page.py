"""Render reports as one self-contained HTML file: no network, fonts or scripts."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluate.core.report.blocks import Cell, Chart, Report, Table
from utils.files import write_text

FOLDER = Path(__file__).resolve().parent
TEMPLATE = "page.html.j2"
_ID = re.compile(r'(\bid="|url\(#|href="#)')


def write_report(path: Path, reports: Sequence[Report]) -> None:
    """Write one HTML file with a chapter for each report, and for several a comparison before them.

    Raises:
        DataError: the file cannot be written.
        ValueError: there is no report.
    """
    write_text(path, render(reports))


def render(reports: Sequence[Report]) -> str:
    """The page as text; the same reports give the same text.

    Raises:
        ValueError: there is no report.
    """
    if not reports:
        raise ValueError("reports: nothing to write")
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,  # paths and class names come from outside
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = _inline_with(count())
    comparison = comparison_table(reports) if len(reports) > 1 else None
    page = environment.get_template(TEMPLATE).render(reports=reports, comparison=comparison).strip() + "\n"
    # A path may contain undecodable bytes; Python keeps them as surrogates, which UTF-8 cannot encode.
    return page.encode("utf-8", "replace").decode("utf-8")


def comparison_table(reports: Sequence[Report]) -> Table:
    """The headline numbers of all reports, one row each; a number that a report lacks is a dash."""
    names = tuple(dict.fromkeys(figure.name for report in reports for figure in report.figures))
    rows = []
    for report in reports:
        values = {figure.name: figure.value for figure in report.figures}
        rows.append((Cell(report.title), *(Cell(values.get(name, "–")) for name in names)))
    return Table("Comparison", ("", *names), tuple(rows))


def _inline_with(numbers: Iterator[int]) -> Callable[[Chart], Markup]:
    """A filter that inlines a chart's <svg> and makes its ids unique on the page."""

    def inline(chart: Chart) -> Markup:
        number = next(numbers)
        return Markup(_ID.sub(rf"\g<1>c{number}-", chart.svg))

    return inline
