"""What an audit finds, and the corrections it suggests."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from audit.copies import Copies
from audit.crops import Camera, PoorCrop
from audit.identities import Merge, Split
from audit.labels import Swaps
from config.params import AuditParams, Params
from data.dataset import find_root
from data.label_fixes import Fix, name_of
from data.samples import SOURCE_STRIDE, Dataset, Sample, source_of
from data.sources import lowered

CERTAIN = 0.5
"""Probability from which an image counts as wrongly labelled where other checks leave such images out."""

MANY = 0.2
"""Share of wrong labels above which the network is doubted, and not the labels."""


class Pool(NamedTuple):
    """The images that are compared: those of the training set first, then query and gallery."""

    root: Path
    samples: list[Sample]
    num_train: int
    num_query: int
    largest_pid: int
    """Of the audited data set; higher ones are free."""
    data_sets: Sequence[str] = ()
    """The audited data set, and those in `test_dirs`, whose identities are raised as by `data.sources.join`."""

    def name(self, row: int) -> str:
        """An image as it is called in files."""
        return name_of(self.samples[row].path, self.root)

    def split(self, row: int) -> str:
        """The part of the data set that an image belongs to."""
        if row < self.num_train:
            return "train"
        return "query" if row < self.num_train + self.num_query else "gallery"

    def identity(self, pid: int) -> str:
        """An identity in texts, with its data set where that is not the audited one."""
        number = source_of(max(pid, 0))
        return f"{pid - number * SOURCE_STRIDE} of {self.data_sets[number]}" if number else str(pid)

    def identities(self, rows: list[int]) -> list[str]:
        """The different identities of some images, in texts."""
        return [self.identity(pid) for pid in sorted({self.samples[row].pid for row in rows})]


class Findings(NamedTuple):
    """Everything that was found; rows are places in the pool, labels are pids."""

    swaps: Swaps
    """`nearest` holds pids, -1 where none is near."""
    splits: list[Split]
    merges: list[Merge]
    copies: list[Copies]
    """Those with training images."""
    cameras: list[Camera]
    crops: list[PoorCrop]

    def swapped(self, least: float) -> list[int]:
        """Rows of images that are wrongly labelled with at least this probability, the surest first."""
        probabilities = self.swaps.probabilities
        order = probabilities.argsort(descending=True, stable=True)
        return order[probabilities[order] >= max(least, 1e-6)].tolist()

    def doubt(self, options: AuditParams, num_train: int) -> str:
        """Why the judgement of the labels is not to be trusted; "" if so few are wrong that it may be."""
        # A low `min_score` also shows labels that are probably right.
        wrong = len(self.swapped(max(options.min_score, CERTAIN)))
        if wrong <= MANY * num_train:
            return ""
        advice = "train the networks of the folds for longer, or from better weights"
        if not options.folds:
            advice = "name one that was trained on them or on a data set like this with --from, or set "
            advice += "audit_params.folds to 2"
        known = f"{wrong} of {num_train} labels look wrong"
        return f"{known}; more likely the network cannot tell these persons apart: {advice}"


def pool_of(dataset: Dataset, params: Params, largest_pid: int) -> Pool:
    """The images to compare, of the data sets that the params name."""
    samples = [*dataset.train, *dataset.query, *dataset.gallery]
    root, _ = find_root(params)
    return Pool(root, samples, len(dataset.train), len(dataset.query), largest_pid, params.data_sets)


def largest_pid(dataset: Dataset) -> int:
    """The largest identity of any data set joined in it, as that has it."""
    return max(lowered(sample).pid for split in dataset for sample in split)


def kept_of(copies: Copies, pool: Pool, swaps: Swaps) -> int | None:
    """The copy to keep: the first with the likeliest label; None where a test image is the same."""
    if copies.rows[-1] >= pool.num_train:
        return None
    return min(copies.rows, key=lambda row: (round(float(swaps.probabilities[row]), 2), row))


def suggest_fixes(pool: Pool, found: Findings, least: float, near_duplicate: float) -> list[Fix]:
    """The corrections whose score is at least `least`, one for each image or identity.

    Where there are several, copies come before poor crops, wrong labels and parts of identities.

    Args:
        pool: the images.
        found: what was found about them.
        least: score.
        near_duplicate: difference of pixels up to which images were taken as copies.
    """
    fixes: dict[str | int, Fix] = {}
    for subject, fix in (
        *_fixes_of_copies(pool, found, near_duplicate),
        *_fixes_of_crops(pool, found),
        *_fixes_of_swaps(pool, found),
        *_fixes_of_splits(pool, found),
        *_fixes_of_merges(pool, found),
    ):
        if fix.score >= least:
            fixes.setdefault(subject, fix)
    return sorted(fixes.values(), key=lambda fix: (fix.action == "merge", fix.path))


def _fixes_of_copies(pool: Pool, found: Findings, near_duplicate: float) -> Iterator[tuple[str, Fix]]:
    for copies in found.copies:
        kept = kept_of(copies, pool, found.swaps)
        original = pool.name(copies.rows[-1] if kept is None else kept)
        score = 1.0 - (0.5 * copies.difference / near_duplicate if copies.difference else 0.0)
        for row in copies.rows:
            if row < pool.num_train and row != kept:
                what = "copy" if copies.difference == 0 else "near copy"
                yield (
                    pool.name(row),
                    Fix(pool.name(row), "drop", pool.samples[row].pid, None, f"{what} of {original}", score),
                )


def _fixes_of_crops(pool: Pool, found: Findings) -> Iterator[tuple[str, Fix]]:
    for crop in found.crops:
        name = pool.name(crop.row)
        yield name, Fix(name, "drop", pool.samples[crop.row].pid, None, f"{crop.kind}: {crop.text}", crop.score)


def _fixes_of_swaps(pool: Pool, found: Findings) -> Iterator[tuple[str, Fix]]:
    for row in found.swapped(0.0):
        name, pid = pool.name(row), int(found.swaps.nearest[row])
        score = float(found.swaps.probabilities[row])
        yield name, Fix(name, "move", pool.samples[row].pid, pid, f"looks like identity {pid}", score)


def _fixes_of_splits(pool: Pool, found: Findings) -> Iterator[tuple[str, Fix]]:
    """The smaller part goes to the identity that it looks like, if there is one, or becomes a new one."""
    new_pid = pool.largest_pid
    for split in found.splits:
        if split.other is None:
            new_pid += 1
        pid, action = (new_pid, "split") if split.other is None else (split.other, "move")
        like = "" if split.other is None else f"; this part looks like identity {split.other}"
        for row in split.parts.smaller.tolist():
            reason = f"identity {split.label} looks like two persons{like}"
            yield pool.name(row), Fix(pool.name(row), action, split.label, pid, reason, split.probability)


def _fixes_of_merges(pool: Pool, found: Findings) -> Iterator[tuple[int, Fix]]:
    trained = {sample.pid for sample in pool.samples[: pool.num_train]}
    used: set[int] = set()
    for merge in found.merges:
        pair = {merge.first, merge.second}
        if pair <= trained and used.isdisjoint(pair):
            used |= pair
            into, away = sorted(pair)
            yield away, Fix("", "merge", away, into, f"looks like identity {into}", merge.probability)


def as_json(pool: Pool, found: Findings, fixes: list[Fix]) -> dict[str, Any]:
    """All findings as plain values."""

    def image(row: int) -> dict[str, Any]:
        sample = lowered(pool.samples[row])
        return {"path": pool.name(row), "split": pool.split(row), "pid": sample.pid, "camid": sample.camid}

    def images(rows: Tensor) -> list[str]:
        return [pool.name(row) for row in rows.tolist()]

    swaps, trained = found.swaps, {sample.pid for sample in pool.samples[: pool.num_train]}
    return {
        "num_fixes": len(fixes),
        "wrong_labels": [
            {**image(row), "new_pid": int(swaps.nearest[row]), "score": round(float(swaps.probabilities[row]), 4)}
            for row in found.swapped(0.0)
        ],
        "two_persons": [
            {
                "pid": split.label,
                "score": round(split.probability, 4),
                "similarity": round(split.parts.similarity, 4),
                "smaller_part_looks_like": split.other,
                "larger_part": images(split.parts.larger),
                "smaller_part": images(split.parts.smaller),
            }
            for split in found.splits
        ],
        "same_person": [
            {
                "pids": [merge.first % SOURCE_STRIDE, merge.second % SOURCE_STRIDE],
                "second_is_in_test_set": merge.second not in trained,
                "score": round(merge.probability, 4),
            }
            for merge in found.merges
        ],
        "copies": [
            {"difference": round(copies.difference, 3), "images": [image(row) for row in copies.rows]}
            for copies in found.copies
        ],
        "cameras": [camera._asdict() for camera in found.cameras],
        "poor_crops": [
            {**image(crop.row), "kind": crop.kind, "remark": crop.text, "score": round(crop.score, 4)}
            for crop in found.crops
        ],
    }
