"""What a data set is once its folder has been read."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

JUNK_PID = -1
"""Market-1501's mark of a gallery image that is neither right nor wrong."""
DISTRACTOR_PID = 0
"""Market-1501's mark of a gallery image that shows no query's person and counts as wrong."""


class Sample(NamedTuple):
    """One image: where it lies, whom it shows, which camera took it."""

    path: Path
    pid: int
    camid: int


class Dataset(NamedTuple):
    """The splits of a data set, each sorted by path; any of them may be empty.

    train: what a network learns from; query, gallery: other identities to search for, and what is searched;
    val: further images of the training identities, for measuring classification.
    """

    train: list[Sample]
    query: list[Sample]
    gallery: list[Sample]
    val: list[Sample]


def fingerprint(samples: Sequence[Sample]) -> str:
    """Tells lists of images apart by their names, identities, cameras and order, not by where they lie."""
    digest = hashlib.sha256()
    for sample in samples:
        # A name may hold bytes that are no text.
        digest.update(os.fsencode(f"{sample.path.name} {sample.pid} {sample.camid}\n"))
    return digest.hexdigest()


def sorted_pids(samples: Sequence[Sample]) -> list[int]:
    """The pids of the samples in ascending order: position in this list = class label."""
    return sorted({sample.pid for sample in samples})
