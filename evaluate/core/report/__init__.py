"""The evaluation report: one HTML file that can be sent to colleagues as it is.

Only blocks and the page are imported here. Modules that fill a report, such as evaluate.core.report.retrieval, import
matplotlib.
"""

from evaluate.core.report.blocks import (
    Cell,
    Chart,
    Facts,
    Figure,
    Figures,
    ImageGroup,
    ImageGroups,
    Note,
    RankList,
    RankLists,
    Report,
    Section,
    Shown,
    Table,
)
from evaluate.core.report.page import write_report

__all__ = [
    "Cell",
    "Chart",
    "Facts",
    "Figure",
    "Figures",
    "ImageGroup",
    "ImageGroups",
    "Note",
    "RankList",
    "RankLists",
    "Report",
    "Section",
    "Shown",
    "Table",
    "write_report",
]
