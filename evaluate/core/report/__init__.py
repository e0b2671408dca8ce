"""The evaluation report: one HTML file that can be sent to colleagues as it is.

This module is light: blocks and the page. What draws charts (matplotlib) is imported only with the module that fills a
report, such as evaluate.core.report.retrieval.
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
