"""The parts of a report, plain values that page.py lays out: numbers are formatted, pictures are data: URIs."""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

Verdict = Literal["query", "right", "wrong", "ignored", "plain"]


@dataclass(frozen=True)
class Figure:
    """One headline number: its name, the number as text, and a few words below it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Figures:
    """Headline numbers, the most important first."""

    kind: ClassVar[str] = "figures"
    items: tuple[Figure, ...]


@dataclass(frozen=True)
class Facts:
    """Names and values, such as what was measured and how."""

    kind: ClassVar[str] = "facts"
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Note:
    """A paragraph: what to know about a section, or why something is missing from it."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart: an <svg> element as charts.py draws it, taken as it is; what it shows; one line below it."""

    kind: ClassVar[str] = "chart"
    svg: str
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table; `heat`, 0..1, is the depth of its colour, None leaves it blank; `hint` is its tooltip."""

    text: str
    heat: float | None = None
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a line of headings; the first cell of each row heads the row."""

    kind: ClassVar[str] = "table"
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Shown:
    """A picture on the page.

    Attributes:
        source: "data:image/jpeg;base64,..."; "" where there is no picture to show.
        width, height: pixels.
        hint: tooltip and alternative text.
        verdict: frame and mark: right, wrong, ignored (faded), the query itself, or plain.
        above, below: a few characters, such as rank and distance.
    """

    source: str
    width: int
    height: int
    hint: str
    verdict: Verdict = "plain"
    above: str = ""
    below: str = ""


@dataclass(frozen=True)
class RankList:
    """A query and what was retrieved for it, from the nearest on; `note` stands beside the query."""

    query: Shown
    note: tuple[str, ...]
    retrieved: tuple[Shown, ...]


@dataclass(frozen=True)
class RankLists:
    """Rank lists below each other, under a title."""

    kind: ClassVar[str] = "ranklists"
    title: str
    lists: tuple[RankList, ...]
    caption: str = ""


@dataclass(frozen=True)
class ImageGroup:
    """Pictures side by side that belong together, with a heading and a few words: a pair, a triple..."""

    title: str
    note: str
    images: tuple[Shown, ...]


@dataclass(frozen=True)
class ImageGroups:
    """Groups of pictures, as many beside each other as the window has room for."""

    kind: ClassVar[str] = "groups"
    groups: tuple[ImageGroup, ...]

    @property
    def width(self) -> int:
        """Pixels the widest group takes on the page, where pictures are 112 high and have frame and gap."""
        widths = (sum(112 * image.width / image.height + 15 for image in group.images) for group in self.groups)
        return round(max(widths, default=0))


Block: TypeAlias = Figures | Facts | Note | Chart | Table | RankLists | ImageGroups


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph that says how to read what follows (may be empty), and the blocks."""

    title: str
    text: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """One evaluation or audit, as `kind` says; on the page a chapter."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    kind: str = "Evaluation"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The headline numbers, for a comparison with other reports on the page."""
        return next((block.items for part in self.sections for block in part.blocks if isinstance(block, Figures)), ())
