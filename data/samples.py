"""A data set after its folder has been read."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

JUNK_PID = -1
"""Marks a gallery image that counts neither as a match nor as an error (Market-1501)."""
DISTRACTOR_PID = 0
"""Marks a gallery image that matches no query (Market-1501)."""
UNKNOWN_PID = -2
"""Identity of a training image without a label."""
UNKNOWN_CAMID = -1
"""Camera of an image that was taken by none, such as a generated one."""
SOURCE_STRIDE = 10**12
"""Where data sets are joined, the identities and cameras of the data set number n are raised by n times this."""


class Sample(NamedTuple):
    """One image: its path, identity and camera."""

    path: Path
    pid: int
    camid: int


class Dataset(NamedTuple):
    """The splits of a data set, each sorted by path; any of them may be empty.

    train: for training; query, gallery: other identities, of which the gallery is searched for the queries;
    val: further images of the training identities, to measure classification.
    """

    train: list[Sample]
    query: list[Sample]
    gallery: list[Sample]
    val: list[Sample]


def fingerprint(samples: Sequence[Sample]) -> str:
    """Hash of the names, identities, cameras and order of images, independent of their folder."""
    digest = hashlib.sha256()
    for sample in samples:
        # A name may contain bytes that are not text.
        digest.update(os.fsencode(f"{sample.path.name} {sample.pid} {sample.camid}\n"))
    return digest.hexdigest()


def sorted_pids(samples: Sequence[Sample]) -> list[int]:
    """The pids of the samples in ascending order; the index in this list is the class label."""
    return sorted({sample.pid for sample in samples})


def sorted_camids(samples: Sequence[Sample]) -> list[int]:
    """The cameras of the samples in ascending order."""
    return sorted({sample.camid for sample in samples})


def source_of(number: int) -> int:
    """The position of the data set that a camera or an identity belongs to among those joined; 0 of a single one."""
    return number // SOURCE_STRIDE
