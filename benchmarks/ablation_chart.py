"""The chart of an ablation."""

import statistics
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

INK, MUTED, LINE, SURFACE = "#1d2430", "#667085", "#e4e7ec", "#ffffff"
BAR, START, DOT, PARENT = "#9db8e8", "#c3c9d4", "#1f4e9c", "#d1495b"
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.facecolor": SURFACE,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.labelcolor": MUTED,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": SURFACE,
    "font.size": 9,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
}


def draw_chart(report: dict[str, Any], path: Path) -> None:
    """Write a picture: mAP of each row, of each seed, and of the row extended."""
    rows = report["rows"]
    # From matplotlib's own defaults, so that a user's matplotlibrc does not reach the picture.
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(9.0, 1.5 + 0.36 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        plot_rows(axes, rows)
        if report["title"]:
            figure.suptitle(report["title"], x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.savefig(path, dpi=150, metadata={"Software": None})


def plot_rows(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw the bars, the first row on top."""
    values = [[100 * run["metrics"]["mAP"] for run in row["runs"]] for row in rows]
    means = {row["name"]: statistics.mean(each) for row, each in zip(rows, values, strict=True)}
    spreads = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in values]
    places = range(len(rows))
    axes.barh(
        places,
        list(means.values()),
        height=0.62,
        color=[BAR if row["extends"] else START for row in rows],
        xerr=spreads,
        error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2.5},
    )
    dots = [(value, place) for place, each in enumerate(values) for value in each]
    axes.scatter(
        *zip(*dots, strict=True), s=13, color=DOT, edgecolor=SURFACE, linewidth=0.5, zorder=3, label="one seed"
    )
    ticks = [(means[row["extends"]], place) for place, row in enumerate(rows) if row["extends"]]
    if ticks:
        at, of = zip(*ticks, strict=True)
        low, high = [place - 0.42 for place in of], [place + 0.42 for place in of]
        axes.vlines(at, low, high, color=PARENT, linewidth=1.6, zorder=4, label="mean of the row it extends")
    right = max(
        max(max(each), mean + spread) for each, mean, spread in zip(values, means.values(), spreads, strict=True)
    )
    for place, row in enumerate(rows):
        gain = f"  {means[row['name']] - means[row['extends']]:+.1f}" if row["extends"] else ""
        axes.text(right * 1.04, place, f"{means[row['name']]:.1f}{gain}", va="center", fontsize=8.5)
    axes.set_yticks(places, [row["name"] for row in rows])
    axes.set_xlim(0, right * 1.17)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.set_xlabel("mAP after the last epoch; bar: mean, whisker: standard deviation; right: mean, gain")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2, handlelength=1.2)
