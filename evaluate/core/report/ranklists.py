"""Rank lists and confused persons in pictures."""

from collections.abc import Sequence
from dataclasses import replace

from evaluate.core.report.blocks import Cell, ImageGroup, ImageGroups, Note, RankList, RankLists, Section, Table
from evaluate.core.report.images import Crops, number, person
from evaluate.core.report.ordering import Confusion, Found, walk
from evaluate.core.retrieval.retrieve import Retrieval

LENGTH = 10
MAX_IGNORED = 12
"""Ignored images drawn in one rank list; there may be thousands of them."""
TITLES = {"worst": "Lowest average precision", "best": "Highest average precision", "random": "Drawn at random"}


def rank_list_section(
    retrieval: Retrieval, chosen: dict[str, list[int]], query: Crops, gallery: Crops, missing: str
) -> Section:
    """What the worst, the best and some random queries found; `missing` says why there are no pictures."""
    text = (
        f"Each row is a query and the {LENGTH} gallery images nearest to it, with their distances. Light green and a "
        "tick: a true match. Dark red and a cross: another person. Narrow and faded: ignored by the protocol, shown "
        "where it would stand. Point at a picture for its path, person and camera."
    )
    if missing:
        return Section("Rank lists", "", (Note(missing),))
    blocks = [
        RankLists(TITLES[kind], tuple(_rank_list(retrieval, place, query, gallery) for place in places))
        for kind, places in chosen.items()
        if places
    ]
    return Section("Rank lists", text, tuple(blocks))


def _rank_list(retrieval: Retrieval, place: int, query: Crops, gallery: Crops) -> RankList:
    """The rank list of the query at a place of the result."""
    result = retrieval.result
    row = int(result.queries[place])
    num_matches = int(retrieval.truth.num_matches[row])
    note = (
        person(int(retrieval.query.pids[row])),
        f"camera {int(retrieval.query.camids[row])}",
        f"AP {result.ap[place].item():.1%}",
        f"first match at {int(result.first[place]) + 1}",
        f"{num_matches} true match{'es' if num_matches > 1 else ''}",
    )
    # Every image has something above it, so that all stand at one height; ignored ones are too narrow for a distance.
    shown = [
        gallery.show(found.row, found.verdict, found.distance, above=str(found.rank))
        if found.rank
        else replace(gallery.show(found.row, "ignored", found.distance, above="·"), below="")
        for found in _until_rank(retrieval, row)
    ]
    return RankList(query.show(row, "query", above="query"), note, tuple(shown))


def _until_rank(retrieval: Retrieval, row: int) -> list[Found]:
    """The first LENGTH images that count, and at most MAX_IGNORED ignored ones between them."""
    kept, num_ignored = [], 0
    for found in walk(retrieval.distances, retrieval.truth, row):
        if found.rank is None:
            num_ignored += 1
            if num_ignored > MAX_IGNORED:
                continue
        kept.append(found)
        if found.rank == LENGTH:
            break
    return kept


def confusion_section(
    retrieval: Retrieval, confusions: Sequence[Confusion], query: Crops, gallery: Crops, missing: str
) -> Section:
    """The persons most often taken for each other, a pair of pictures each; without pictures as a table."""
    title = "Confused persons"
    if not confusions:
        return Section(title, "", (Note("No query has a wrong image as its nearest."),))
    text = (
        "Query persons, and the wrong person whose image is most often nearest to them, with the distance of the "
        "closest pair of images. Distractors are many persons, counted together."
    )
    if missing:
        header = ("Person", "Taken for", "How often", "Closest")
        rows = [(*map(person, pair[:2]), _share(pair), number(pair.distance)) for pair in confusions]
        table = Table("", header, tuple(tuple(map(Cell, row)) for row in rows))
        return Section(title, text, (Note(missing), table))
    groups = [
        ImageGroup(
            f"{person(pair.query_pid)} taken for {person(pair.gallery_pid)}",
            _share(pair),
            (query.show(pair.query, "query"), gallery.show(pair.gallery, "wrong", pair.distance)),
        )
        for pair in confusions
    ]
    return Section(title, text, (ImageGroups(tuple(groups)),))


def _share(pair: Confusion) -> str:
    return f"{pair.times} of {pair.num_query} quer{'ies' if pair.num_query > 1 else 'y'}"
