"""Queries that nothing can be found for: told before a long evaluation, not after it."""

import logging

from torch import Tensor

from data.samples import DISTRACTOR_PID, JUNK_PID
from evaluate.core.retrieval.protocols import GroundTruth
from utils.errors import DataError

logger = logging.getLogger(__name__)

NAMED = 10


def check_matches(where: str, truth: GroundTruth, query_pids: Tensor, gallery_pids: Tensor) -> None:
    """Warn of queries without a true match, naming the pids that the gallery lacks.

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
