"""Retrieval metrics of each pair of query camera and gallery camera."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from evaluate.core.report.blocks import Block, Cell, Note, Section, Table
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.ranking import MEMORY, match_positions, per_query_metrics, ranking_blocks
from evaluate.core.retrieval.retrieve import Retrieval

MAX_CAMERAS = 30
"""Rows and columns of the table; those with most images are shown."""


class CameraPairs(NamedTuple):
    """Searches from each of A cameras in each of B cameras alone.

    query_cameras: A camids, ascending; gallery_cameras: B likewise. num_query: (A, B) int64, queries from a with a true
    match in b; rank1, mean_ap: (A, B) float64, their means, NaN where there is none.
    """

    query_cameras: list[int]
    gallery_cameras: list[int]
    num_query: Tensor
    rank1: Tensor
    mean_ap: Tensor


def camera_pairs(retrieval: Retrieval, memory: int = MEMORY) -> CameraPairs:
    """Rank, for every query, the gallery images of one camera at a time.

    Of more than MAX_CAMERAS cameras on either side, those with fewest images are left out.

    Args:
        retrieval: the distances and labels of its queries and gallery are used.
        memory: bytes the work may take beside the embeddings.
    """
    query, gallery, distances, truth, _ = retrieval
    query_cameras = most_frequent(query.camids, MAX_CAMERAS)
    gallery_cameras = most_frequent(gallery.camids, MAX_CAMERAS)
    labels = (query.pids, query.camids, gallery.pids, gallery.camids)
    query_pids, query_camids, pids, camids = (part.to(distances.device) for part in labels)
    columns = [(camids == camera).nonzero().flatten() for camera in gallery_cameras]
    truths = [
        GroundTruth(query_pids, query_camids, pids[own], camids[own], cross_camera=truth.cross_camera)
        for own in columns
    ]
    row_of = {camera: row for row, camera in enumerate(query_cameras)}
    rows = torch.tensor([row_of.get(camid, len(query_cameras)) for camid in query.camids.tolist()])
    sums = torch.zeros(3, len(query_cameras) + 1, len(gallery_cameras), dtype=torch.float64)
    for start, stop in ranking_blocks(distances, memory):
        distance = distances.rows(start, stop)
        for column, (own, truth) in enumerate(zip(columns, truths, strict=True)):
            found, results = _rank_block(distance[:, own], truth, start, stop)
            for total, result in zip(sums, results, strict=True):
                total[:, column].index_add_(0, rows[found], result)
    number, rank1, ap = sums[:, :-1]
    return CameraPairs(query_cameras, gallery_cameras, number.long(), rank1 / number, ap / number)


def _rank_block(distance: Tensor, truth: GroundTruth, start: int, stop: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Queries of a block that have a match, and for each of them 1, whether rank 1 is right, and AP; on the CPU."""
    num_matches = truth.num_matches[start:stop]
    found = num_matches.nonzero().flatten()
    if not len(found):
        return found.cpu(), (torch.zeros(0, dtype=torch.float64),) * 3
    index, is_match = truth.matches(start, stop)
    positions = match_positions(distance, index, is_match, truth.ignored(start, stop))[found]
    ap, _, _ = per_query_metrics(positions, num_matches[found])
    right = (positions[:, 0] == 0).double()
    return found.cpu() + start, (torch.ones(len(found), dtype=torch.float64), right.cpu(), ap.cpu())


def most_frequent(camids: Tensor, limit: int) -> list[int]:
    """The cameras with most images, `limit` at most; in ascending order, as they are returned, equal ones too."""
    cameras, numbers = camids.unique(return_counts=True)
    return cameras[numbers.argsort(descending=True, stable=True)[:limit]].sort().values.tolist()


def camera_section(retrieval: Retrieval, memory: int) -> Section:
    """Rank-1 and mAP of each pair of cameras as two tables, or a sentence that says why there are none."""
    title = "Cameras"
    query, gallery = retrieval.query, retrieval.gallery
    if len(query.camids.unique()) == 1 and len(gallery.camids.unique()) == 1:
        return Section(title, "", (Note("All images come from one camera, so there are no pairs to compare."),))
    pairs = camera_pairs(retrieval, memory)
    text = (
        "Each query searches the gallery images of one camera at a time. Rows are the query's camera, columns the "
        "gallery's; the last column is the whole gallery. The colours of a table run from its lowest pair to its "
        "highest; a dash means that no query has a true match there."
    )
    rank1, mean_ap, num_query = _whole_gallery(retrieval, pairs.query_cameras)
    tables: list[Block] = [
        _table("Rank-1", pairs, pairs.rank1, rank1, num_query),
        _table("mAP", pairs, pairs.mean_ap, mean_ap, num_query),
    ]
    left_out = [
        f"{side}: the {len(shown)} of {number} cameras with most images are shown."
        for side, shown, number in (
            ("Query", pairs.query_cameras, len(query.camids.unique())),
            ("Gallery", pairs.gallery_cameras, len(gallery.camids.unique())),
        )
        if len(shown) < number
    ]
    return Section(title, text, (*tables, *map(Note, left_out)))


def _whole_gallery(retrieval: Retrieval, cameras: Sequence[int]) -> tuple[list[float], list[float], list[int]]:
    """Rank-1, mAP and the number of queries of each query camera, as the report's headline numbers count them."""
    result = retrieval.result
    camids = retrieval.query.camids[result.queries]
    own = [camids == camera for camera in cameras]
    rank1 = [(result.first[rows] == 0).double().mean().item() for rows in own]
    return rank1, [result.ap[rows].mean().item() for rows in own], [int(rows.sum()) for rows in own]


def _table(title: str, pairs: CameraPairs, values: Tensor, whole: list[float], num_whole: list[int]) -> Table:
    known = values[~values.isnan()]
    low, high = (known.min().item(), known.max().item()) if len(known) else (0.0, 1.0)

    def cell(value: float, number: int, where: str) -> Cell:
        if number == 0:
            return Cell("–", None, f"{where}: no query with a true match")
        heat = (value - low) / (high - low) if high > low else 0.5
        return Cell(f"{value:.1%}"[:-1], min(1.0, max(0.0, heat)), f"{where}: {value:.2%}, {number} queries")

    rows = []
    for row, camera in enumerate(pairs.query_cameras):
        cells = [
            cell(values[row, column].item(), int(pairs.num_query[row, column]), f"camera {camera} in camera {other}")
            for column, other in enumerate(pairs.gallery_cameras)
        ]
        last = replace(cell(whole[row], num_whole[row], f"camera {camera} in all cameras"), heat=None)
        rows.append((Cell(str(camera), None, f"queries of camera {camera}"), *cells, last))
    header = ("from ↓ in →", *map(str, pairs.gallery_cameras), "all")
    return Table(f"{title}, percent", header, tuple(rows))
