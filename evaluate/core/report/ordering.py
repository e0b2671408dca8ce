"""Rank lists of single queries, from the nearest image on."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from evaluate.core.report.blocks import Verdict
from evaluate.core.retrieval.distances import Distances
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.ranking import nearest
from evaluate.core.retrieval.retrieve import Retrieval


class Found(NamedTuple):
    """A gallery image in a rank list; `rank` counts from 1 and leaves out the ignored ones, which have none."""

    row: int
    distance: float
    verdict: Verdict
    rank: int | None


class Confusion(NamedTuple):
    """Two persons taken for each other: `times` queries of one have an image of the other as their nearest.

    query and gallery are the rows of the closest such pair of images, distance is theirs; num_query is the number of
    ranked queries of this person.
    """

    query_pid: int
    gallery_pid: int
    times: int
    num_query: int
    query: int
    gallery: int
    distance: float


def walk(distances: Distances, truth: GroundTruth, query: int) -> Iterator[Found]:
    """The gallery by distance from one query, equal distances by gallery index, ignored images in their place."""
    distance, order = distances.rows(query, query + 1)[0].sort(stable=True)
    index, is_match = truth.matches(query, query + 1)
    verdicts = torch.zeros(truth.shape[1], dtype=torch.uint8, device=order.device)
    verdicts[index[is_match]] = 1
    verdicts[truth.ignored(query, query + 1)[1]] = 2
    in_order = verdicts[order]
    ranks = (in_order != 2).cumsum(0)
    names: tuple[Verdict, ...] = ("wrong", "right", "ignored")
    columns = order.tolist(), distance.tolist(), in_order.tolist(), ranks.tolist()
    for row, length, verdict, rank in zip(*columns, strict=True):
        yield Found(row, length, names[verdict], rank if verdict != 2 else None)


def chosen_queries(retrieval: Retrieval, count: int, rng: np.random.Generator) -> dict[str, list[int]]:
    """Positions in the result of the worst, the best and some random queries, none of them twice.

    The worst have the lowest AP, the best the highest; at equal AP those with more true matches come first.
    """
    ap = retrieval.result.ap.numpy()
    num_matches = retrieval.truth.num_matches.cpu()[retrieval.result.queries].numpy()
    by_ap = np.lexsort((-num_matches, ap))
    worst = by_ap[:count].tolist()
    best = [place for place in np.lexsort((-num_matches, -ap)).tolist() if place not in worst][:count]
    rest = np.setdiff1d(by_ap, [*worst, *best])
    some = rng.choice(rest, min(count, len(rest)), replace=False)
    return {"worst": worst, "best": best, "random": sorted(some.tolist())}


def confused_pairs(retrieval: Retrieval, count: int, memory: int) -> list[Confusion]:
    """The pairs of persons most often taken for each other, `count` at most, the most frequent first.

    Counted are queries that have a true match and a wrong image as the nearest one that is not ignored. Equally
    frequent pairs are ordered by distance.
    """
    query, gallery, result = retrieval.query, retrieval.gallery, retrieval.result
    found = nearest(retrieval.distances, retrieval.truth, 1, memory=memory)
    pids, numbers = query.pids[result.queries].unique(return_counts=True)
    num_query = dict(zip(pids.tolist(), numbers.tolist(), strict=True))
    closest: dict[tuple[int, int], Confusion] = {}
    for row in result.queries[result.first > 0].tolist():
        other, distance = int(found.order[row, 0]), float(found.distance[row, 0])
        key = int(query.pids[row]), int(gallery.pids[other])
        before = closest.get(key)
        times = 1 + (before.times if before else 0)
        if before is None or distance < before.distance:
            closest[key] = Confusion(*key, times, num_query[key[0]], row, other, distance)
        else:
            closest[key] = before._replace(times=times)
    return sorted(closest.values(), key=lambda pair: (-pair.times, pair.distance, pair.query))[:count]
