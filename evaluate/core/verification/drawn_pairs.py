"""Verification pairs drawn at random from labelled images, where there is no list of pairs."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from data.samples import DISTRACTOR_PID, JUNK_PID, Sample
from evaluate.core.verification.pairs import Pairs
from utils.errors import DataError, ParamsError

logger = logging.getLogger(__name__)


def draw_pairs(samples: Sequence[Sample], num_pairs: int, num_folds: int, seed: int, where: str) -> Pairs:
    """Draw as many genuine pairs as impostors, in folds that have no person in common.

    Genuine pairs are taken from the persons in turn, so that those with many images do not dominate; where several
    cameras saw a person, each genuine pair is from two cameras. Impostors are drawn uniformly from all pairs of two
    persons of the fold. No pair is drawn twice. A fold with too few pairs has fewer.

    Args:
        samples: images; junk and distractors are left out, and images named twice taken once.
        num_pairs: of both kinds together.
        num_folds: F.
        seed: of everything drawn; the same images and seed give the same pairs.
        where: the images' folder, for messages.

    Raises:
        DataError: too few persons for so many folds.
        ParamsError: fewer pairs than two in each fold.
    """
    if num_pairs < 2 * num_folds:
        raise ParamsError(
            f"evaluation_params.num_pairs: {num_pairs} pairs cannot give a genuine pair and an impostor to each of "
            f"{num_folds} folds; raise it, or lower num_folds"
        )
    rng = np.random.default_rng(seed)
    people = {sample.path: sample for sample in samples if sample.pid not in (JUNK_PID, DISTRACTOR_PID)}
    images = sorted(people.values(), key=lambda sample: (sample.pid, sample.path))
    pids, camids = (np.array([getattr(sample, name) for sample in images], dtype=int) for name in ("pid", "camid"))
    _, starts = np.unique(pids, return_index=True)
    rows_of = np.split(np.arange(len(images)), starts[1:]) if images else []
    # Half of num_pairs, spread over the folds as evenly as whole numbers can be.
    wanted = np.diff(np.linspace(0, num_pairs // 2, num_folds + 1).astype(int))
    genuine = [rng.permutation(_genuine_pairs(rows, camids))[: wanted.max()] for rows in rows_of]
    drawn = []
    for persons, number in zip(_deal([len(pairs) for pairs in genuine], num_folds, rng, where), wanted, strict=True):
        ours = _in_turns([genuine[person] for person in persons], number, rng)
        others = _impostor_pairs(np.sort(np.concatenate([rows_of[person] for person in persons])), pids, len(ours), rng)
        drawn += [ours[: len(others)], others]
    numbers = [len(pairs) for pairs in drawn]
    if sum(numbers) < num_pairs:
        logger.warning("%s: only %d pairs can be drawn, not %d", where, sum(numbers), num_pairs)
    used, places = np.unique(np.concatenate(drawn), return_inverse=True)
    first, second = torch.from_numpy(places.reshape(-1, 2)).T
    is_genuine = torch.tensor([True, False] * num_folds).repeat_interleave(torch.tensor(numbers))
    folds = (torch.arange(2 * num_folds) // 2).repeat_interleave(torch.tensor(numbers))
    return Pairs([images[row] for row in used], first, second, is_genuine, folds)


def _genuine_pairs(rows: np.ndarray, camids: np.ndarray) -> np.ndarray:
    """(K, 2): every pair of one person's images; of a person whom several cameras saw, only those from two cameras."""
    one, other = np.triu_indices(len(rows), k=1)
    pairs = np.stack([rows[one], rows[other]], axis=1)
    across = camids[pairs[:, 0]] != camids[pairs[:, 1]]
    return pairs[across] if across.any() else pairs


def _deal(num_genuine: Sequence[int], num_folds: int, rng: np.random.Generator, where: str) -> list[np.ndarray]:
    """The persons of each fold; those with many pairs go round first, so that all folds have about as many."""
    several = sum(number > 0 for number in num_genuine)
    if len(num_genuine) < 2 * num_folds or several < num_folds:
        raise DataError(
            f"{where}: for pairs in {num_folds} folds query and gallery should show at least {2 * num_folds} persons, "
            f"{num_folds} of them in two images; got {len(num_genuine)}, {several} of them in two images; add some, or "
            f"lower evaluation_params.num_folds"
        )
    order = rng.permutation(len(num_genuine))
    order = order[np.argsort(-np.array(num_genuine)[order], kind="stable")]
    return [order[fold::num_folds] for fold in range(num_folds)]


def _in_turns(pairs_of: Sequence[np.ndarray], number: int, rng: np.random.Generator) -> np.ndarray:
    """(K, 2), K at most `number`: each person's first pair, then each person's second..."""
    turns = np.concatenate([np.arange(len(pairs)) for pairs in pairs_of])
    order = np.lexsort((rng.random(len(turns)), turns))
    return np.concatenate(pairs_of)[order[:number]]


def _impostor_pairs(rows: np.ndarray, pids: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """(K, 2), K at most `number`: pairs of two persons, drawn evenly from all there are; `rows` are sorted by pid."""
    # Each image is paired with all images of later persons; these pairs are numbered through, image after image.
    ends = np.searchsorted(pids[rows], pids[rows], side="right")
    num_partners = len(rows) - ends
    up_to = np.cumsum(num_partners)
    drawn = rng.choice(up_to[-1], min(number, up_to[-1]), replace=False)
    one = np.searchsorted(up_to, drawn, side="right")
    other = ends[one] + drawn - (up_to[one] - num_partners[one])
    return np.stack([rows[one], rows[other]], axis=1)
