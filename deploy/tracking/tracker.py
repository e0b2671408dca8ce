"""An online tracker: one frame after another, who is who.

Detections are given to tracks three times, each time by an assignment of least total cost, and each time only what the
time before left over:

1. by appearance, where the motion of the track allows it: cosine distance of the embeddings;
2. by place: 1 - overlap (intersection over union) of the box and the one the motion predicts, unless the two look
   altogether different;
3. to new tracks; once such a track has been seen a few times, it is compared by appearance with the tracks that were
   lost, wherever these were, and goes on as one of them or gets a number of its own.

Without embeddings only the second happens, and every track that is lost for long is a new person when it comes back.

Sources: 1 and 2 as in Wojke, Bewley, Paulus: Simple Online and Realtime Tracking with a Deep Association Metric, 2017;
place alone is Bewley, Ge, Ott, Ramos, Upcroft: Simple Online and Realtime Tracking, 2016; the moving average of
embeddings is that of Zhang, Wang, Wang, Zeng, Liu: FairMOT, 2021.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from deploy.tracking.boxes import overlaps
from deploy.tracking.motion import GATE, Motion, begin, predict, surprise, update


@dataclass
class Track:
    """What is known of a person.

    Attributes:
        number: From 1 on; 0 while the track is too young to have one.
        motion: Where the person is now.
        appearance: Moving average of the embeddings (D,), of unit length; None without embeddings.
        seen: In how many frames.
        missing: For how many frames not seen.
    """

    number: int
    motion: Motion
    appearance: np.ndarray | None
    seen: int = 1
    missing: int = 0


class Tracker:
    """Follows persons from frame to frame.

    Args:
        accept: Two embeddings may be of the same person when their cosine distance (1 - cosine) is at most this. It
            depends on the model, whose card has `thresholds`; needed where embeddings are given.
        refuse: Times `accept`: at a larger distance even a box in the right place is of somebody else.
        min_overlap: Least overlap with the predicted box for a match by place.
        inertia: Share of the old appearance that stays when a new embedding comes.
        confirm: Frames in which a track must be seen before it gets a number.
        coast: Frames a track that is not seen is looked for by its motion.
        keep: Frames a track that is not seen is looked for by its appearance; at least `coast`.
    """

    def __init__(
        self,
        accept: float | None = None,
        *,
        refuse: float = 2.0,
        min_overlap: float = 0.3,
        inertia: float = 0.9,
        confirm: int = 3,
        coast: int = 20,
        keep: int = 300,
    ) -> None:
        if confirm < 1 or not 0 <= coast <= keep:
            raise ValueError(f"Tracker: confirm at least 1, 0 <= coast <= keep; got {confirm}, {coast}, {keep}")
        # Without embeddings neither is compared with anything.
        self._accept = math.nan if accept is None else accept
        self._refuse = refuse * self._accept
        self._min_overlap = min_overlap
        self._inertia = inertia
        self._confirm = confirm
        self._coast = coast
        self._keep = keep
        self._tracks: list[Track] = []
        self._next_number = 1

    def step(self, boxes: np.ndarray, embeddings: np.ndarray | None = None) -> np.ndarray:
        """Takes the detections of the next frame.

        Args:
            boxes: (N, 4) x, y, width, height in pixels; N may be 0.
            embeddings: (N, D), of unit length, of what the boxes show; None to go by motion alone, then in every frame.

        Returns:
            (N,) int: the number of each detection's track, 0 while that is too young.

        Raises:
            ValueError: the shapes do not fit, a box has no size, or there are embeddings and no `accept`.
        """
        self._check(boxes, embeddings)
        for track in self._tracks:
            track.motion = predict(track.motion)
            track.missing += 1
        owner = self._owners(boxes, embeddings)
        for index, track in owner.items():
            self._learn(track, boxes[index], None if embeddings is None else embeddings[index])
        self._drop()
        for index, box in enumerate(boxes):
            if index not in owner:
                owner[index] = Track(0, begin(box), None if embeddings is None else embeddings[index])
                self._tracks.append(owner[index])
        self._number(owner)
        return np.array([owner[index].number for index in range(len(boxes))], dtype=int)

    def _check(self, boxes: np.ndarray, embeddings: np.ndarray | None) -> None:
        if boxes.ndim != 2 or boxes.shape[1] != 4 or (embeddings is not None and len(embeddings) != len(boxes)):
            given = None if embeddings is None else embeddings.shape
            raise ValueError(f"Tracker.step: boxes (N, 4), embeddings (N, D); got {boxes.shape} and {given}")
        if not (boxes[:, 2:] > 0).all():
            raise ValueError(f"Tracker.step: widths and heights above 0 expected, got {boxes[:, 2:].min():g}")
        if embeddings is not None and math.isnan(self._accept):
            raise ValueError("Tracker.step: embeddings need Tracker(accept=...), the model's largest distance")
        if any((track.appearance is None) != (embeddings is None) for track in self._tracks):
            raise ValueError("Tracker.step: embeddings in some frames only; give them in every frame or in none")

    def _owners(self, boxes: np.ndarray, embeddings: np.ndarray | None) -> dict[int, Track]:
        """The track of each detection that has one."""
        owner: dict[int, Track] = {}
        near = [track for track in self._tracks if track.missing <= self._coast + 1]
        numbered = [track for track in near if track.number]
        if embeddings is not None:
            far = looks(numbered, embeddings)
            for row, track in enumerate(numbered):
                far[row, surprise(track.motion, boxes) > GATE] = np.inf
            owner |= _matched(numbered, range(len(boxes)), far, self._accept)
        # The young come last: what a known person may be is not the second sight of a new one.
        for tracks in (numbered, [track for track in near if not track.number]):
            free = [track for track in tracks if all(track is not taken for taken in owner.values())]
            left = [index for index in range(len(boxes)) if index not in owner]
            places = np.array([track.motion.box for track in free]).reshape(-1, 4)
            cost = 1 - overlaps(places, boxes[left])
            if embeddings is not None:
                cost[looks(free, embeddings[left]) > self._refuse] = np.inf
            owner |= _matched(free, left, cost, 1 - self._min_overlap)
        return owner

    def _learn(self, track: Track, box: np.ndarray, embedding: np.ndarray | None) -> None:
        track.motion = update(track.motion, box)
        track.seen, track.missing = track.seen + 1, 0
        if embedding is not None and track.appearance is not None:
            # A young track has no old appearance worth the name: the plain mean.
            inertia = min(self._inertia, 1 - 1 / track.seen)
            mixed = inertia * track.appearance + (1 - inertia) * embedding
            track.appearance = mixed / np.linalg.norm(mixed)

    def _drop(self) -> None:
        """Forgets who has been away too long, and the young who were missed once."""
        self._tracks = [track for track in self._tracks if track.missing <= (self._keep if track.number else 0)]

    def _number(self, owner: dict[int, Track]) -> None:
        """Gives numbers to those seen often enough: that of a lost track which looks alike, or else a new one."""
        ripe = [index for index in sorted(owner) if not owner[index].number and owner[index].seen >= self._confirm]
        lost = [track for track in self._tracks if track.number and track.missing > 0 and track.appearance is not None]
        known = [index for index in ripe if owner[index].appearance is not None]
        appearances = np.array([owner[index].appearance for index in known])
        back = _matched(lost, known, looks(lost, appearances), self._accept) if known and lost else {}
        for index in ripe:
            if index in back:
                self._tracks = [track for track in self._tracks if track is not back[index]]
                owner[index].number = back[index].number
                owner[index].appearance = back[index].appearance
            else:
                owner[index].number = self._next_number
                self._next_number += 1


def looks(tracks: Sequence[Track], embeddings: np.ndarray) -> np.ndarray:
    """Cosine distances of T tracks and (N, D) embeddings: (T, N), infinite for a track without appearance."""
    distance = np.full((len(tracks), len(embeddings)), np.inf)
    for row, track in enumerate(tracks):
        if track.appearance is not None:
            distance[row] = 1 - embeddings @ track.appearance
    return distance


def _matched(tracks: Sequence[Track], detections: Sequence[int], cost: np.ndarray, accept: float) -> dict[int, Track]:
    """Assigns detections (the columns) to tracks (the rows) at least cost; none above `accept`.

    Costs above it count alike, so one that is not possible cannot push a possible one aside.
    """
    bounded = np.where(cost <= accept, cost, accept + 1e3)
    rows, columns = linear_sum_assignment(bounded)
    return {
        detections[column]: tracks[row]
        for row, column in zip(rows, columns, strict=True)
        if cost[row, column] <= accept
    }
