"""Metrics as the screen shows them."""

from collections.abc import Mapping


def metrics_table(metrics: Mapping[str, float], decimals: int = 2) -> str:
    """Two lines: the names, and below them the fractions in percent.

    >>> print(metrics_table({"rank1": 0.9353, "mAP": 0.8025}))
      rank1      mAP
     93.53%   80.25%
    """
    cells = [(name, f"{value:.{decimals}%}") for name, value in metrics.items()]
    widths = [max(len(name), len(f"{1:.{decimals}%}")) for name, _ in cells]
    lines = zip(*cells, strict=True)
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
