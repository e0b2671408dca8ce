"""The protocol of VehicleID: a gallery of one random image of each identity, drawn again and again."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

import torch

from data.features import Features, TestFeatures
from data.samples import DISTRACTOR_PID, JUNK_PID
from utils.errors import DataError

DEVIATION = "_std"
"""Suffix of the name of a standard deviation."""


def random_gallery_trials(pool: Features, repeats: int, seed: int) -> Iterator[TestFeatures]:
    """For each trial, draw one random image of every identity as the gallery; all others are queries.

    There is no camera rule: the truth of a trial is `GroundTruth(..., cross_camera=False)`. The only image of an
    identity is always in the gallery. Junk and distractors (pid -1 and 0) are left out.

    Args:
        pool: N embeddings, in any order of identities.
        repeats: how many trials.
        seed: of the draws; trial t does not depend on `repeats`.

    Returns:
        The trials. Images are in the pool's order in both parts.

    Raises:
        DataError: the pool has fewer than two identities, or none with two images.

    Source: Liu et al. 2016, Deep Relative Distance Learning: Tell the Difference Between Similar Vehicles.
    """
    rows = ((pool.pids != JUNK_PID) & (pool.pids != DISTRACTOR_PID)).nonzero().flatten()
    num_identities = len(pool.pids[rows].unique())
    if num_identities < 2 or len(rows) == num_identities:
        raise DataError(
            f"random gallery: {len(rows)} of the {len(pool.pids)} images show an identity, {num_identities} different "
            "ones; at least two identities are needed, and one of them with at least two images"
        )
    return _trials(pool, rows, repeats, seed)


def mean_and_deviation(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over trials under its name, and under NAME_std its standard deviation, of the population."""
    values = {name: [trial[name] for trial in metrics] for name in metrics[0]}
    means = {name: statistics.fmean(of_trials) for name, of_trials in values.items()}
    return means | {f"{name}{DEVIATION}": statistics.pstdev(of_trials) for name, of_trials in values.items()}


def _trials(pool: Features, rows: torch.Tensor, repeats: int, seed: int) -> Iterator[TestFeatures]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(repeats):
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        # Of shuffled images, the first of each identity is a random one.
        by_pid = shuffled[pool.pids[shuffled].argsort(stable=True)]
        pids = pool.pids[by_pid]
        is_first = torch.cat([torch.ones(1, dtype=torch.bool), pids[1:] != pids[:-1]])
        yield TestFeatures(pool.at(by_pid[~is_first].sort().values), pool.at(by_pid[is_first].sort().values))
