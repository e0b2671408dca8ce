"""How well tracks follow persons: identity switches, MOTA and IDF1.

Truth and found are sequences of frames; a frame is who is there, integer ids (N,), and their boxes (N, 4). A track and
a person may be the same where their boxes overlap by half or more (intersection over union).

Sources: Bernardin, Stiefelhagen: Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics, 2008; Ristani,
Solera, Zou, Cucchiara, Tomasi: Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking, 2016.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from deploy.tracking.boxes import overlaps


class Seen(NamedTuple):
    """A frame: ids (N,) int, no two alike, and boxes (N, 4)."""

    ids: np.ndarray
    boxes: np.ndarray


class ClearMot(NamedTuple):
    """Counts of CLEAR MOT over a video.

    Attributes:
        persons: Boxes of the truth.
        missed: Those that no track was matched to.
        false: Boxes of tracks that were matched to nobody.
        switches: How often a person was matched to another track than the one before.
    """

    persons: int
    missed: int
    false: int
    switches: int

    @property
    def mota(self) -> float:
        """1 - (missed + false + switches) / persons; NaN without persons."""
        return 1 - (self.missed + self.false + self.switches) / self.persons if self.persons else float("nan")


def clear_mot(truth: Sequence[Seen], found: Sequence[Seen], min_overlap: float = 0.5) -> ClearMot:
    """Matches the frames one after another and counts the mistakes.

    A match of the frame before holds while the two overlap enough; the rest is matched so that as many as possible
    are, and among those ways with the largest sum of overlaps. A person who comes to a new track after a while without
    any counts as a switch, too.
    """
    last: dict[int, int] = {}  # of each person, the track of the latest match
    before: dict[int, int] = {}  # matches of the frame before
    persons = missed = false = switches = 0
    for true, tracks in zip(truth, found, strict=True):
        overlap = overlaps(true.boxes, tracks.boxes)
        pairs = _held(true.ids, tracks.ids, overlap >= min_overlap, before)
        rows = np.setdiff1d(np.arange(len(true.ids)), [row for row, _ in pairs])
        columns = np.setdiff1d(np.arange(len(tracks.ids)), [column for _, column in pairs])
        pairs += [
            (int(rows[row]), int(columns[column]))
            for row, column in _assigned(overlap[np.ix_(rows, columns)], min_overlap)
        ]
        before = {int(true.ids[row]): int(tracks.ids[column]) for row, column in pairs}
        switches += sum(last.get(person, track) != track for person, track in before.items())
        last |= before
        persons, missed = persons + len(true.ids), missed + len(true.ids) - len(pairs)
        false += len(tracks.ids) - len(pairs)
    return ClearMot(persons, missed, false, switches)


def idf1(truth: Sequence[Seen], found: Sequence[Seen], min_overlap: float = 0.5) -> float:
    """Share of the boxes that bear the right identity, when each person is given the one track that suits best.

    Each track belongs to one person at most, each person to one track, over the whole video, so that as many boxes as
    possible agree (IDTP); IDF1 is 2 IDTP / (boxes of the truth + boxes of the tracks). NaN without boxes.
    """
    people = np.unique(np.concatenate([np.asarray(seen.ids) for seen in truth] or [np.zeros(0)]))
    tracks = np.unique(np.concatenate([np.asarray(seen.ids) for seen in found] or [np.zeros(0)]))
    agreeing = np.zeros((len(people), len(tracks)))
    boxes = 0
    for true, track in zip(truth, found, strict=True):
        boxes += len(true.ids) + len(track.ids)
        places = np.ix_(np.searchsorted(people, true.ids), np.searchsorted(tracks, track.ids))
        agreeing[places] += overlaps(true.boxes, track.boxes) >= min_overlap
    chosen = linear_sum_assignment(agreeing, maximize=True)
    return 2 * float(agreeing[chosen].sum()) / boxes if boxes else float("nan")


def _held(people: np.ndarray, tracks: np.ndarray, may: np.ndarray, before: dict[int, int]) -> list[tuple[int, int]]:
    """The matches of the frame before that still hold, as row and column."""
    column_of = {int(track): column for column, track in enumerate(tracks)}
    candidates = [
        (row, column_of.get(before[int(person)]) if int(person) in before else None)
        for row, person in enumerate(people)
    ]
    return [(row, column) for row, column in candidates if column is not None and may[row, column]]


def _assigned(overlap: np.ndarray, min_overlap: float) -> list[tuple[int, int]]:
    """Most pairs that overlap enough, with the largest sum of overlaps."""
    may = overlap >= min_overlap
    # One pair more outweighs any sum of overlaps.
    value = np.where(may, min(overlap.shape, default=0) + 1 + overlap, 0.0)
    rows, columns = linear_sum_assignment(value, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if may[row, column]]
