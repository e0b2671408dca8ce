"""Which gallery images are true matches of a query and which are ignored: the rules behind every retrieval metric."""

import logging

import torch
from torch import Tensor

from data.samples import DISTRACTOR_PID, JUNK_PID
from utils.errors import DataError

logger = logging.getLogger(__name__)

NUM_PLACES = 2**22
"""Gallery images compared at once when matches are counted; each takes about 30 bytes."""
NAMED = 10
"""Missing pids that a warning names."""


class GroundTruth:
    """The true matches and the ignored gallery images of each query, found through sorted pids.

    A true match shows the query's person, from another camera. Junk (pid -1) and images of the query's person from the
    query's own camera are ignored. All others, including distractors (pid 0), are wrong. Without the camera rule every
    image of the person is a true match. Queries of pid 0 or -1 have no matches and ignore junk only. No array is of
    size Q x G.

    Args:
        query_pids, query_camids: (Q,) int64.
        gallery_pids, gallery_camids: (G,) int64.
        cross_camera: whether the camera rule applies.

    Attributes:
        num_matches: (Q,) int64, true matches of each query.
        is_person: (Q,) bool, queries whose pid is neither junk nor distractor.

    Source: Zheng et al. 2015, Scalable Person Re-identification (Market-1501).
    """

    def __init__(
        self,
        query_pids: Tensor,
        query_camids: Tensor,
        gallery_pids: Tensor,
        gallery_camids: Tensor,
        *,
        cross_camera: bool = True,
    ) -> None:
        self.shape = (len(query_pids), len(gallery_pids))
        self.cross_camera = cross_camera
        self._query_camids, self._gallery_camids = query_camids, gallery_camids
        # Gallery indices by pid, ascending within each: a query's own are one stretch of them.
        sorted_pids, self._by_pid = gallery_pids.sort(stable=True)
        self.is_person = (query_pids != JUNK_PID) & (query_pids != DISTRACTOR_PID)
        self._first = torch.searchsorted(sorted_pids, query_pids)
        found = torch.searchsorted(sorted_pids, query_pids, right=True) - self._first
        self._num_same = torch.where(self.is_person, found, 0)
        self._junk = (gallery_pids == JUNK_PID).nonzero().flatten()
        self.num_matches = self._count_matches()

    def matches(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """True matches of queries start..stop.

        Returns:
            (R, M) int64 gallery indices, ascending in each row, and (R, M) bool, which of them are matches; the rest
            is padding at the end of the row.
        """
        index, is_match, _ = self._same_person(start, stop)
        width = int(is_match.sum(dim=1).max()) if is_match.numel() else 0
        order = (~is_match).byte().sort(dim=1, stable=True).indices[:, :width]
        return index.gather(1, order), is_match.gather(1, order)

    def ignored(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Ignored pairs of queries start..stop: rows, from 0, and gallery indices, (X,) int64 each."""
        index, _, is_ignored = self._same_person(start, stop)
        rows, places = is_ignored.nonzero(as_tuple=True)
        all_rows = torch.arange(stop - start, device=rows.device).repeat_interleave(len(self._junk))
        return torch.cat([rows, all_rows]), torch.cat([index[rows, places], self._junk.repeat(stop - start)])

    def _same_person(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Gallery indices (R, S) of each query's person, and which are matches and which ignored, (R, S) bool."""
        num_same = self._num_same[start:stop]
        places = torch.arange(int(num_same.max()) if len(num_same) else 0, device=num_same.device)
        exists = places < num_same[:, None]
        index = self._by_pid[torch.where(exists, self._first[start:stop, None] + places, 0)]
        if not self.cross_camera:
            return index, exists, torch.zeros_like(exists)
        same_camera = self._gallery_camids[index] == self._query_camids[start:stop, None]
        return index, exists & ~same_camera, exists & same_camera

    def _count_matches(self) -> Tensor:
        """(Q,) int64, in blocks: a pid may have very many images."""
        counts = torch.zeros_like(self._num_same)
        most = int(self._num_same.max()) if self.shape[0] else 0
        size = max(1, NUM_PLACES // max(1, most))
        for start in range(0, self.shape[0], size):
            stop = min(start + size, self.shape[0])
            counts[start:stop] = self._same_person(start, stop)[1].sum(dim=1)
        return counts


def check_matches(where: str, truth: GroundTruth, query_pids: Tensor, gallery_pids: Tensor) -> None:
    """Warn about queries without a true match and name the pids that the gallery lacks.

    Args:
        where: the data set or file that the messages name.
        truth: of the queries and the gallery.
        query_pids: (Q,) int64.
        gallery_pids: (G,) int64.

    Raises:
        DataError: no query has one.
    """
    num_query = truth.shape[0]
    without = truth.num_matches == 0
    persons = set(gallery_pids.tolist()) - {JUNK_PID, DISTRACTOR_PID}
    shown = set(query_pids.tolist()) - {JUNK_PID, DISTRACTOR_PID}
    absent = sorted(shown - persons)
    if without.all() and len(absent) == len(shown):
        raise DataError(f"{where}: the gallery shows none of the persons of the {num_query} query images")
    if without.all():
        raise DataError(
            f"{where}: no query image has a true match; the gallery shows their persons from the query's own camera "
            f"only, and such images do not count"
        )
    if without.any():
        logger.warning(
            "%s: %d of %d query images have no true match in the gallery and are left out of the metrics%s",
            where,
            int(without.sum()),
            num_query,
            f"; the gallery lacks pid {_listing(absent)}" if absent else "",
        )


def _listing(pids: list[int]) -> str:
    shown = ", ".join(map(str, pids[:NAMED]))
    return shown if len(pids) <= NAMED else f"{shown} and {len(pids) - NAMED} more"
