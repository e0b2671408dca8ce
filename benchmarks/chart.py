"""The chart of an ablation."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure

STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": "#e4e7ec",
    "legend.frameon": False,
    "text.parse_math": False,
    "ytick.major.size": 0,
}


def draw_chart(path: Path, title: str, mean_aps: Mapping[str, Sequence[float]], parents: Mapping[str, str]) -> None:
    """Draw the mAP of each row, of each seed, and of the row it extends.

    Args:
        path: PNG file.
        title: May be empty.
        mean_aps: By row, the mAP of each seed, percent.
        parents: By row, the row it extends, or "".
    """
    names = list(mean_aps)
    means = {name: statistics.mean(values) for name, values in mean_aps.items()}
    spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in mean_aps.values()]
    right = max(max(values) for values in mean_aps.values()) + max(spreads)
    # matplotlib's own defaults, so that a user's matplotlibrc does not change the picture.
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(9.0, 1.5 + 0.36 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        colours = ["#9db8e8" if parents[name] else "#c3c9d4" for name in names]
        axes.barh(names, list(means.values()), 0.62, color=colours, xerr=spreads, error_kw={"capsize": 2.5})
        dots = [(value, name) for name in names for value in mean_aps[name]]
        axes.scatter(*zip(*dots, strict=True), s=13, color="#1f4e9c", zorder=3, label="one seed")
        for place, name in enumerate(names):
            gain = ""
            if parent := parents[name]:
                axes.plot([means[parent]] * 2, [place - 0.42, place + 0.42], color="#d1495b", zorder=4)
                gain = f"  {means[name] - means[parent]:+.1f}"
            axes.text(right * 1.02, place, f"{means[name]:.1f}{gain}", va="center")
        axes.plot([], [], color="#d1495b", label="mean of the row it extends")
        axes.set_xlim(0, right * 1.17)
        axes.invert_yaxis()
        axes.set_xlabel("mAP after the last epoch, percent; bar: mean, whisker: standard deviation; right: mean, gain")
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.savefig(path, dpi=150, metadata={"Software": None})
