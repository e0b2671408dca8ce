"""The charts of evaluation reports."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from evaluate.core.report.blocks import Chart
from evaluate.core.report.svg import DOT, FIRST, INK, LINE, MUTED, SECOND, SURFACE, draw, hint, percent
from evaluate.core.verification.roc import Roc

CMC_TICKS = (1, 2, 3, 5, 10, 20, 50, 100)
CMC_LABELLED = (1, 5, 10, 20)
LOWEST_RATE = 1e-6
"""Where the axis of false accepts begins if it would begin lower."""


def cmc_chart(cmc: np.ndarray) -> Chart:
    """The share of queries with a true match among the first k, (K,) for k = 1..K, on a logarithmic axis of k."""
    ranks = np.arange(1, len(cmc) + 1)
    low = _zoom(float(cmc[0]))

    def plot(axes: Axes) -> None:
        axes.plot(ranks, cmc, color=FIRST)
        for k in (k for k in CMC_LABELLED if k <= len(cmc)):
            (dot,) = axes.plot(k, cmc[k - 1], "o", **DOT)
            hint(dot, f"rank-{k}: {cmc[k - 1]:.2%}")
            _label(axes, k, cmc[k - 1], f"{cmc[k - 1]:.1%}", (5, -4))
        axes.set_xscale("log")
        axes.set_xlim(0.93, len(cmc) * 1.07)
        _log_ticks(axes, [k for k in CMC_TICKS if k <= len(cmc)])
        axes.set_ylim(low, 1 + (1 - low) * 0.04)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
        axes.set_xlabel("rank k")

    caption = f"Share of queries with a true match among the first k images. The axis begins at {percent(low)}."
    return Chart(draw(plot), "Cumulative match characteristic", caption)


def roc_chart(roc: Roc) -> Chart:
    """True accept rate over false accept rate, the latter on a logarithmic axis, with the point of equal error."""
    far, tar = roc.curve()
    shown = far >= LOWEST_RATE
    start = min(0.1, float(far[shown].min()))
    equal = roc.eer

    def plot(axes: Axes) -> None:
        chance = np.geomspace(start, 1.0, 100)
        axes.plot(chance, chance, color=MUTED, linewidth=0.8, dashes=(4, 3))
        # What is accepted before the first rate shown is the height at which the curve enters from the left.
        axes.plot(np.append(start, far[shown]), np.append(tar[~shown].max(initial=0.0), tar[shown]), color=FIRST)
        if equal >= start:
            (dot,) = axes.plot(equal, 1 - equal, "o", **DOT)
            hint(dot, f"equal error rate {equal:.2%}")
            _label(axes, equal, 1 - equal, f"equal error {equal:.1%}", (-5, 3))
        axes.set_xscale("log")
        axes.set_xlim(start, 1.0)
        axes.set_ylim(0.0, 1.02)
        axes.xaxis.set_major_formatter(FuncFormatter(_rate))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
        axes.set_xlabel("false accept rate")

    caption = "Share of genuine pairs accepted over the share of impostors accepted. Dashed: a guess."
    return Chart(draw(plot), "True accepts over false accepts (ROC)", caption)


def distance_chart(edges: np.ndarray, genuine: np.ndarray, impostor: np.ndarray, threshold: float | None) -> Chart:
    """Histograms of the distances of genuine and impostor pairs.

    Args:
        edges: (B + 1,) of the bins.
        genuine, impostor: (B,) counts.
        threshold: distance to mark as that of equal error; None = nowhere.
    """
    first = int(np.argmax(genuine + impostor > 0))

    def plot(axes: Axes) -> None:
        for counts, colour, name in ((impostor, SECOND, "impostor pairs"), (genuine, FIRST, "genuine pairs")):
            share = counts / max(1, counts.sum())
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.2, linewidth=0)
            axes.stairs(share, edges, color=colour, linewidth=1.5, label=name)
        top = axes.get_ylim()[1] * 1.05
        if threshold is not None:
            axes.axvline(threshold, color=INK, linewidth=0.9, dashes=(4, 3))
            _label(axes, threshold, top, f"equal error at {threshold:.3g}", (4, -1))
        axes.set_ylim(0, top)
        axes.set_xlim(edges[first], edges[-1])
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
        axes.set_xlabel("distance")
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.0, borderpad=0.2)

    caption = "Share of each kind of pair in each bin: both areas are equal, however many impostors there are."
    return Chart(draw(plot), "Distances of genuine and impostor pairs", caption)


def ap_chart(ap: np.ndarray, bins: int = 20) -> Chart:
    """How many queries have which average precision, (V,) in 0..1."""
    counts, edges = np.histogram(ap, bins=bins, range=(0.0, 1.0))
    mean = float(ap.mean())

    def plot(axes: Axes) -> None:
        bars = axes.bar(edges[:-1], counts, width=1 / bins, align="edge", color=FIRST, edgecolor=SURFACE, linewidth=1)
        for bar, count, left in zip(bars, counts, edges, strict=False):
            hint(bar, f"AP {left:.0%} to {left + 1 / bins:.0%}: {count} queries")
        axes.axvline(mean, color=INK, linewidth=0.9, dashes=(4, 3))
        top = 1.07 * max(counts)  # the highest bar and, above it, a line of text
        axes.set_ylim(0, top)
        _label(axes, mean, top, f"mAP {mean:.1%}", (-4 if mean > 0.5 else 4, -1))
        axes.set_xlim(0.0, 1.0)
        axes.xaxis.set_major_formatter(FuncFormatter(percent))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("average precision")
        axes.set_ylabel("queries")

    median, lost = np.median(ap), np.mean(ap < 0.1)
    caption = f"Half of the queries have an AP of {median:.1%} or more; {lost:.1%} have less than 10%."
    return Chart(draw(plot), "Average precision over the queries", caption)


def _label(axes: Axes, x: float, y: float, text: str, offset: tuple[float, float]) -> None:
    """Text beside a point, on the side to which `offset`, in points, goes."""
    horizontal, vertical = "left" if offset[0] > 0 else "right", "bottom" if offset[1] > 0 else "top"
    axes.annotate(text, (x, y), offset, textcoords="offset points", ha=horizontal, va=vertical, fontsize=8, color=INK)


def _log_ticks(axes: Axes, ticks: Sequence[int]) -> None:
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_major_formatter(FixedFormatter([str(tick) for tick in ticks]))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, axis="x", color=LINE, linewidth=0.6)


def _rate(rate: float, _: object) -> str:
    """A power of ten in digits: 0.00001."""
    return np.format_float_positional(float(f"{rate:.3g}"), trim="-")


def _zoom(lowest: float) -> float:
    """Where the axis of a curve begins that runs from `lowest` up to 1: a multiple of 5%, with room below the curve."""
    return max(0.0, min(0.95, np.floor(20 * (lowest - 0.12 * (1 - lowest))) / 20))
