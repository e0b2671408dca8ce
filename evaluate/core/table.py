"""Metrics as the screen shows them."""

from collections.abc import Mapping

THRESHOLD_PREFIX = "threshold"
GENERATION_DISTANCES = ("fid", "kid")


def is_fraction(name: str) -> bool:
    """Whether a metric of this name is a fraction; thresholds, FID and KID are distances."""
    name = name.rpartition("/")[2]
    return not name.startswith(THRESHOLD_PREFIX) and name not in GENERATION_DISTANCES


def metrics_table(metrics: Mapping[str, float], decimals: int = 2) -> str:
    """Two lines: the names, and below them the fractions in percent; a line for each of several test sets, and one for
    their mean.

    >>> print(metrics_table({"rank1": 0.9353, "mAP": 0.8025}))
      rank1      mAP
     93.53%   80.25%
    >>> print(metrics_table({"mAP": 0.6, "market/mAP": 0.8, "duke/mAP": 0.4}))
                mAP
    market   80.00%
    duke     40.00%
    mean     60.00%
    """
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        test_set, _, metric = name.rpartition("/")
        rows.setdefault(test_set, {})[metric] = value
    means = rows.pop("", {})
    return comparison_table({**rows, "mean" if rows else "": means}, decimals)


def comparison_table(rows: Mapping[str, Mapping[str, float]], decimals: int = 2) -> str:
    """A line of names, and one line for each data set; a metric that one of them lacks is a dash.

    >>> print(comparison_table({"market": {"mAP": 0.5}, "duke": {"mAP": 0.25, "threshold": 0.31}}))
                mAP  threshold
    market   50.00%          -
    duke     25.00%     0.3100
    """
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    lines = [["", *names]]
    lines += [[row, *(_cell(name, metrics, decimals) for name in names)] for row, metrics in rows.items()]
    first = max(map(len, rows))
    least = len(f"{1:.{decimals}%}")
    widths = [max(least, *map(len, column)) for column in list(zip(*lines, strict=True))[1:]]
    return "\n".join(
        "  ".join(
            [row.ljust(first)] * bool(first) + [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        )
        for row, *cells in lines
    )


def _cell(name: str, metrics: Mapping[str, float], decimals: int) -> str:
    if name not in metrics:
        return "-"
    if is_fraction(name):
        return f"{metrics[name]:.{decimals}%}"
    return f"{metrics[name]:.4g}" if name in GENERATION_DISTANCES else f"{metrics[name]:.4f}"
