"""Judge the images of a training set by their embeddings and pixels."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from audit.copies import find_copies
from audit.crops import compare_cameras, find_poor_crops
from audit.findings import CERTAIN, Findings, Pool
from audit.identities import Merge, Split, find_merges, find_splits
from audit.labels import Near, Swaps, find_swaps, nearest_images, rows_of_labels
from audit.pixels import Pixels
from data.samples import DISTRACTOR_PID, JUNK_PID
from utils.randomness import AUDIT, seed_for


class View(NamedTuple):
    """All images of the pool as one network sees them, and the training images that it is to judge."""

    features: Tensor
    """(N, D) float32, embeddings of unit length, on the CPU."""
    near: Near
    is_judged: Tensor
    """(N,) bool; only training images."""


class Labels(NamedTuple):
    """The identities of the pool as labels 0..C-1, those of the training set first; junk and distractors have none."""

    pids: Tensor
    """(C,) int64, by label."""
    of_image: Tensor
    """(N,) int64; -1 = none."""
    num_trained: int


def view_of(features: Tensor, is_judged: Tensor, device: torch.device, probes: int = 0) -> View:
    """Embeddings (N, D) float32 of any length as a view; `device` compares them, with `probes` as `find_neighbours`.

    Raises:
        DataError: an embedding of length zero.
    """
    features = F.normalize(features)
    return View(features, nearest_images(features.to(device), probes), is_judged)


def judge(pool: Pool, pixels: Pixels, views: Iterable[View], near_duplicate: float, seed: int) -> Findings:
    """Everything that can be found; the views judge different images and are made one at a time.

    Args:
        pool: the images.
        pixels: of the same images.
        views: every training image is judged by one of them.
        near_duplicate: mean absolute difference of pixels, 0..255, up to which images are copies.
        seed: of the planted mistakes.
    """
    labels = labels_of(pool)
    camids = torch.tensor([sample.camid for sample in pool.samples])
    probabilities = torch.zeros(len(pool.samples))
    nearest = torch.full((len(pool.samples),), -1)
    splits: list[Split] = []
    merges: dict[tuple[int, int], Merge] = {}
    first: Near | None = None
    for number, (features, near, is_judged) in enumerate(views):
        generator = torch.Generator().manual_seed(seed_for(AUDIT, seed, number + 1))
        first = first or near
        swaps, found, alike = _judge_labels(features, near, labels, camids, is_judged, generator)
        probabilities[is_judged], nearest[is_judged] = swaps.probabilities[is_judged], swaps.nearest[is_judged]
        splits += found
        for merge in alike:
            known = merges.setdefault((merge.first, merge.second), merge)
            if merge.probability > known.probability:
                merges[merge.first, merge.second] = merge
    assert first is not None
    copies = find_copies(pixels, first, near_duplicate)
    return Findings(
        Swaps(probabilities, torch.where(nearest < 0, -1, labels.pids[nearest])),
        [_split_of_pids(split, labels.pids) for split in sorted(splits, key=lambda split: -split.probability)],
        [
            Merge(int(labels.pids[merge.first]), int(labels.pids[merge.second]), merge.probability)
            for merge in sorted(merges.values(), key=lambda merge: -merge.probability)
        ],
        [each for each in copies if each.rows[0] < pool.num_train],
        compare_cameras(pixels, camids[: pool.num_train]),
        find_poor_crops(pixels, first, pool.num_train),
    )


def _split_of_pids(split: Split, pids: Tensor) -> Split:
    other = None if split.other is None else int(pids[split.other])
    return split._replace(label=int(pids[split.label]), other=other)


def labels_of(pool: Pool) -> Labels:
    """The identities of training and test images; one of both is one of the training set."""
    trained = sorted({sample.pid for sample in pool.samples[: pool.num_train]})
    tested = {sample.pid for sample in pool.samples[pool.num_train :]} - {*trained, JUNK_PID, DISTRACTOR_PID}
    pids = [*trained, *sorted(tested)]
    label_of = {pid: label for label, pid in enumerate(pids)}
    of_train = [label_of[sample.pid] for sample in pool.samples[: pool.num_train]]
    # Pid 0 may be an identity of the training set, but is none of the test images.
    of_test = [label_of.get(sample.pid, -1) if sample.pid > 0 else -1 for sample in pool.samples[pool.num_train :]]
    return Labels(torch.tensor(pids), torch.tensor(of_train + of_test), len(trained))


def _judge_labels(
    features: Tensor, near: Near, labels: Labels, camids: Tensor, is_judged: Tensor, generator: torch.Generator
) -> tuple[Swaps, list[Split], list[Merge]]:
    """Images with another identity's looks, then identities without these; labels are not yet pids."""
    of_train = labels.of_image.where(labels.of_image < labels.num_trained, -1)
    swaps = find_swaps(features, of_train, near, is_judged, generator)
    groups = {
        label: rows
        for label, group in enumerate(rows_of_labels(labels.of_image))
        if len(rows := group[swaps.probabilities[group] < CERTAIN])
    }
    judged = {int(label) for label in labels.of_image[is_judged].unique()} & groups.keys()
    splits = find_splits(features, {label: groups[label] for label in sorted(judged)}, generator)
    # The smaller parts take part in the search for identities that look like one as identities of their own.
    part_of = {len(labels.pids) + place: split for place, split in enumerate(splits) if split.probability >= CERTAIN}
    for part, split in part_of.items():
        groups[split.label], groups[part] = split.parts.larger, split.parts.smaller
    apart = [(split.label, part) for part, split in part_of.items()]
    merges = find_merges(features, groups, camids, judged | part_of.keys(), apart, generator)
    other_of = {
        merge.second: merge.first
        for merge in merges
        if merge.second in part_of and merge.first < labels.num_trained and merge.probability >= CERTAIN
    }
    for place, part in enumerate(part_of):
        splits[place] = splits[place]._replace(other=other_of.get(part))
    return swaps, splits, [merge for merge in merges if merge.second < len(labels.pids)]
