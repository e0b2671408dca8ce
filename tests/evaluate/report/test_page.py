"""The page: one file that loads nothing, escapes what it is told, and is the same for the same reports."""

from html.parser import HTMLParser

import numpy as np
import pytest

from evaluate.core.report.blocks import (
    Cell,
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
    Verdict,
)
from evaluate.core.report.charts import ap_chart, cmc_chart
from evaluate.core.report.images import as_source
from evaluate.core.report.page import comparison_table, render, write_report
from utils.errors import DataError

HOSTILE = """</style><script>alert('1')</script>"' onload="alert(2)" <b>&amp; http"""
VOID = {"meta", "img", "path", "use", "rect", "link", "br"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def values(self, *names: str) -> list[str]:
        return [value for _, name, value in self.attributes if name in names]


def shown(hint: str, verdict: Verdict = "right") -> Shown:
    pixels = np.full((40, 20, 3), 90, dtype=np.uint8)
    return Shown(*as_source(pixels), hint, verdict, "1", "0.123")


def report(title="Market", text="what it says"):
    """A report with every kind of block, and a text everywhere a text may stand."""
    blocks = (
        Figures((Figure(text, "93.25%", text), Figure("Threshold", text))),
        Facts(((text, text),)),
        Note(text),
        cmc_chart(np.linspace(0.5, 1.0, 50)),
        ap_chart(np.array([0.1, 0.5, 0.5, 1.0])),
        Table(text, (text, "a"), ((Cell(text, None, text), Cell("1", 0.5, text)), (Cell("2"), Cell("3"))), text),
        RankLists(text, (RankList(shown(text, "query"), (text, "AP"), (shown(text), shown(text, "wrong"))),), text),
        ImageGroups((ImageGroup(text, text, (shown(text), Shown("", 64, 128, text, "ignored"))),)),
    )
    return Report(title, text, (Section(text, text, blocks), Section("Rest", "", ())))


def test_the_page_loads_nothing_and_every_link_leads_somewhere():
    text = render([report("Market"), report("Duke")])
    page = Page(text)
    assert [word for word in ("http://", "https://", "@import") if word in text] == []
    assert not {"script", "link", "iframe", "object", "base"} & {*page.tags}
    sources = page.values("src")
    assert len(sources) == 2 * 4
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert text.count("url(") == text.count("url(#")
    ids = page.values("id")
    assert len(ids) == len({*ids}) > 4
    links = [link for link in page.values("href", "xlink:href") if link]
    assert links
    assert {link.removeprefix("#") for link in links} <= {*ids}
    clips = [value.removeprefix("url(#").removesuffix(")") for value in page.values("clip-path")]
    assert clips
    assert {*clips} <= {*ids}


def test_hostile_texts_stay_texts():
    page = Page(render([report(HOSTILE, HOSTILE), report(HOSTILE, HOSTILE)]))
    harmless = Page(render([report(), report()]))
    assert page.tags == harmless.tags
    assert [(tag, name) for tag, name, _ in page.attributes] == [(tag, name) for tag, name, _ in harmless.attributes]
    assert page.values("alt").count(HOSTILE) == 2 * 4
    assert sum(text == HOSTILE for text in page.texts) > 2 * 10


def test_a_path_that_is_no_text_can_be_written(tmp_path):
    write_report(tmp_path / "a.html", [report(text="image\udcff.jpg")])
    assert "image?.jpg" in (tmp_path / "a.html").read_bytes().decode("utf-8")


def test_several_reports_are_compared_first():
    first = Report("A", "", (Section("s", "", (Figures((Figure("mAP", "80%"), Figure("Rank-1", "90%"))),)),))
    second = Report("B", "", (Section("s", "", (Note("n"), Figures((Figure("mAP", "70%"), Figure("mINP", "5%"))))),))
    table = comparison_table([first, second])
    assert table.header == ("", "mAP", "Rank-1", "mINP")
    assert [[cell.text for cell in row] for row in table.rows] == [["A", "80%", "90%", "–"], ["B", "70%", "–", "5%"]]
    assert "2 data sets" in render([first, second])
    assert "data sets" not in render([first])


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        write_report(tmp_path / "nowhere" / "a.html", [report()])
    with pytest.raises(ValueError, match="nothing to write"):
        write_report(tmp_path / "a.html", [])
