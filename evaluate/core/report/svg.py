"""Draw charts as <svg> elements in the colours of the page, light and dark, and its font."""

import re
from collections.abc import Callable
from html import escape
from io import StringIO
from typing import Any

from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Placeholders for variables of the page's style sheet: fixed colours would suit one background only.
INK, MUTED, LINE, SURFACE = "#000101", "#000102", "#000103", "#000104"
FIRST, SECOND = "#000105", "#000106"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    SURFACE: "var(--surface)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
}
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.labelpad": 6,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
    "figure.facecolor": "none",
    "font.size": 8.5,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "path.simplify_threshold": 0.05,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # ids follow from the content alone
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}
DOT: dict[str, Any] = {
    "color": FIRST,
    "markersize": 5.5,
    "markeredgecolor": SURFACE,
    "zorder": 3,
    "clip_on": False,
}
"""How a point of a curve is marked."""
_HINT = "hint "


def draw(plot: Callable[[Axes], object], width: float = 5.0, height: float = 3.1) -> str:
    """Draw one pair of axes.

    Args:
        plot: draws into the axes; the colours above adapt to the page, others are fixed.
        width, height: inches; the page scales charts to its columns, so these say the proportions and, as fonts are
            8.5 points, how large text is.

    Returns:
        An <svg> element as text, the same for the same drawing.
    """
    # From matplotlib's defaults, so that a user's matplotlibrc does not change the report.
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(width, height), layout="constrained")
        plot(figure.add_subplot())
        text = StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    return _inline(text.getvalue())


def hint(artist: Artist, text: str) -> None:
    """Give a line, bar or collection a tooltip."""
    artist.set_gid(_HINT + text)


def percent(share: float, _: object = None) -> str:
    """The label of a tick, for matplotlib's FuncFormatter."""
    return f"{100 * share:.6g}%"


def _inline(svg: str) -> str:
    """Turn an SVG file into an element of a page: without header, size, font and global style."""
    svg = svg[svg.index("<svg") :].strip()
    size = re.search(r'viewBox="([^"]*)"', svg)
    assert size is not None
    svg = f'<svg viewBox="{escape(size[1])}">' + svg[svg.index(">") + 1 :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # The quotes around a name are single where there are double ones in it.
    svg = re.sub(rf"""<g id=(["']){_HINT}(.*?)\1>""", r"<g><title>\2</title>", svg, flags=re.DOTALL)
    svg = re.sub(r"""<g id=(["']).*?\1""", "<g", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*(; )?", "", svg).replace("xlink:href", "href")
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return re.sub(r"\s*\n\s*", "\n", svg)
