"""An online multi-person tracker for detections with re-ID embeddings; needs numpy and scipy only.

    tracker = Tracker(max_distance=0.4)
    for boxes, embeddings in frames:
        track_ids = tracker.step(boxes, embeddings)

Each frame is matched in three stages; a later stage sees only what the earlier ones left unmatched:

1. by appearance, the cosine distance of the embeddings, among the tracks whose predicted motion allows the box;
2. by overlap (intersection over union) of the box with the predicted one, confirmed tracks first;
3. a new track that has been seen `CONFIRM` times is compared by appearance with the lost tracks: it continues the best
   match, or gets an id of its own.

Without embeddings only stage 2 runs, and a person who returns after a while gets a new id.

Sources: Wojke, Bewley, Paulus, "Simple Online and Realtime Tracking with a Deep Association Metric", ICIP 2017 (stages
1 and 2; here with fixed gains instead of a Kalman filter); Bewley et al., "Simple Online and Realtime Tracking", ICIP
2016 (overlap only); Zhang et al., "FairMOT", IJCV 2021 (moving average of embeddings).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

CONFIRM = 3  # frames in which a track must be seen before it gets an id
MAX_MISSES = 20  # frames for which a lost track is matched by its motion
MEMORY = 300  # frames for which a lost track is matched by its appearance
MIN_OVERLAP = 0.3  # least intersection over union for a match by overlap
VETO = 2.0  # times max_distance: cosine distance from which on even a box in the right place is somebody else's
MOMENTUM = 0.9  # share of the old embedding in the moving average


@dataclass(eq=False)
class Track:
    """One person.

    Attributes:
        id: From 1 on; 0 until the track is confirmed.
        box: (4,) x, y, width, height, of the last frame or predicted for this one.
        velocity: (2,) pixels per frame.
        embedding: Moving average (D,) of the embeddings, of unit length; None without embeddings.
        hits: Number of frames with a matched detection.
        misses: Number of frames since the last one.
    """

    id: int
    box: np.ndarray
    velocity: np.ndarray
    embedding: np.ndarray | None
    hits: int = 1
    misses: int = 0

    def predict(self) -> None:
        """Move on by one frame at constant velocity."""
        self.box = np.concatenate([self.box[:2] + self.velocity, self.box[2:]])
        self.misses += 1

    def update(self, box: np.ndarray, embedding: np.ndarray | None) -> None:
        """Take a matched detection into account."""
        self.hits, self.misses = self.hits + 1, 0
        # An alpha-beta filter of the place; its gain for the velocity falls as the track gets longer.
        residual = box - self.box
        self.velocity = self.velocity + max(0.1, 1 / self.hits) * residual[:2]
        self.box = self.box + 0.6 * residual
        if embedding is not None and self.embedding is not None:
            momentum = min(MOMENTUM, 1 - 1 / self.hits)  # at first the plain mean
            mean = momentum * self.embedding + (1 - momentum) * embedding
            self.embedding = mean / np.linalg.norm(mean)

    def reaches(self, boxes: np.ndarray) -> np.ndarray:
        """Which of (N, 4) boxes the person may have moved to: (N,) bool; the radius grows while it is not seen."""
        radius = (0.2 + 0.05 * self.misses) * self.box[3]
        return np.linalg.norm(_centres(boxes) - _centres(self.box), axis=1) <= radius


class Tracker:
    """Assigns track ids to the detections of one frame after another.

    Args:
        max_distance: Largest cosine distance of two embeddings of one person; an exported model's card lists such
            thresholds. Not used without embeddings.
    """

    def __init__(self, max_distance: float = 0.4) -> None:
        self.max_distance = max_distance
        self.tracks: list[Track] = []
        self.num_ids = 0

    def step(self, boxes: np.ndarray, embeddings: np.ndarray | None = None) -> np.ndarray:
        """Match the detections of the next frame.

        Args:
            boxes: (N, 4) x, y, width, height in pixels; N may be 0.
            embeddings: (N, D), of unit length; None, then in every frame, to track by motion alone.

        Returns:
            (N,) int: the track id of each detection, 0 while its track is not confirmed.
        """
        for track in self.tracks:
            track.predict()
        owners = self._match(boxes, embeddings)
        for index, track in owners.items():
            track.update(boxes[index], None if embeddings is None else embeddings[index])
        self.tracks = [track for track in self.tracks if track.misses <= (MEMORY if track.id else 0)]
        for index in set(range(len(boxes))) - owners.keys():
            embedding = None if embeddings is None else embeddings[index]
            owners[index] = Track(0, boxes[index], np.zeros(2), embedding)
            self.tracks.append(owners[index])
        self._confirm([owners[index] for index in range(len(boxes))])
        return np.array([owners[index].id for index in range(len(boxes))], dtype=int)

    def _match(self, boxes: np.ndarray, embeddings: np.ndarray | None) -> dict[int, Track]:
        """Stages 1 and 2: the track of each matched detection, by its index."""
        owners: dict[int, Track] = {}
        recent = [track for track in self.tracks if track.misses <= MAX_MISSES + 1]
        confirmed, young = [t for t in recent if t.id], [t for t in recent if not t.id]
        if embeddings is not None:
            cost = appearance_distance(confirmed, embeddings)
            for row, track in enumerate(confirmed):
                cost[row, ~track.reaches(boxes)] = np.inf
            owners |= {column: confirmed[row] for row, column in assign(cost, self.max_distance)}
        for tracks in (confirmed, young):
            free = [track for track in tracks if track not in owners.values()]
            rest = [index for index in range(len(boxes)) if index not in owners]
            cost = 1 - overlaps(np.array([track.box for track in free]).reshape(-1, 4), boxes[rest])
            if embeddings is not None:
                cost[appearance_distance(free, embeddings[rest]) > VETO * self.max_distance] = np.inf
            owners |= {rest[column]: free[row] for row, column in assign(cost, 1 - MIN_OVERLAP)}
        return owners

    def _confirm(self, seen: Sequence[Track]) -> None:
        """Stage 3: gives ids to the tracks of this frame that have been seen often enough."""
        ready = [track for track in seen if not track.id and track.hits >= CONFIRM]
        lost = [track for track in self.tracks if track.id and track.misses > 0 and track.embedding is not None]
        embeddings = np.array([track.embedding for track in ready])
        cost = appearance_distance(lost, embeddings) if lost and ready else np.zeros((0, 0))
        for row, column in assign(cost, self.max_distance):
            ready[column].id, ready[column].embedding = lost[row].id, lost[row].embedding
            self.tracks.remove(lost[row])
        for track in ready:
            if not track.id:
                self.num_ids += 1
                track.id = self.num_ids


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union (N, M) of (N, 4) and (M, 4) boxes."""
    first, second = first[:, None], second[None]
    start = np.maximum(first[..., :2], second[..., :2])
    end = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    shared = np.maximum(end - start, 0.0).prod(axis=-1)
    return shared / (first[..., 2:].prod(axis=-1) + second[..., 2:].prod(axis=-1) - shared)


def appearance_distance(tracks: Sequence[Track], embeddings: np.ndarray) -> np.ndarray:
    """Cosine distances (T, N) of tracks and (N, D) embeddings."""
    distances = [1 - embeddings @ track.embedding for track in tracks]
    return np.array(distances).reshape(len(tracks), len(embeddings))


def assign(cost: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """Rows and columns of the assignment of least total cost, without pairs above `limit`."""
    # Every pair above the limit costs the same, so that it cannot displace a pair below it.
    rows, columns = linear_sum_assignment(np.where(cost <= limit, cost, limit + 1e3))
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if cost[row, column] <= limit]


def _centres(boxes: np.ndarray) -> np.ndarray:
    return boxes[..., :2] + boxes[..., 2:] / 2
