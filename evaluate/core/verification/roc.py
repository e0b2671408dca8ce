"""Verification: are two images of one person? Their distance decides.

A pair of images of the same person is genuine, a pair of two persons an impostor. A pair is accepted as genuine when
its distance is at most a threshold. The true accept rate (TAR) is the share of genuine pairs that are accepted, the
false accept rate (FAR) the share of impostors.

Everything here is exact: thresholds are not sampled, and pairs of equal distance are never split.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluate.core.retrieval.distances import Distances
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.ranking import MEMORY, ranking_blocks
from utils.errors import DataError
from utils.process import num_own_cpus

FALSE_ACCEPT_RATES = (1e-1, 1e-2, 1e-3, 1e-4)
"""False accept rates at which the true accept rate is reported."""


@dataclass(frozen=True)
class Roc:
    """The receiver operating characteristic: every pair of TAR and FAR that some threshold gives.

    It follows from how many impostors are nearer than each genuine pair; all tensors lie on the CPU.

    Attributes:
        thresholds: (T,) float32, the distance of each genuine pair, ascending.
        impostors_below: (T,) int64, impostors strictly nearer than that genuine pair.
        impostors_up_to: (T,) int64, impostors nearer or as near.
        num_impostor: all impostors.
    """

    thresholds: Tensor
    impostors_below: Tensor
    impostors_up_to: Tensor
    num_impostor: int

    @property
    def num_genuine(self) -> int:
        """T."""
        return len(self.thresholds)

    @property
    def auc(self) -> float:
        """Area under the curve: the probability that an impostor is farther than a genuine pair, ties counting half.

        Source: Hanley and McNeil 1982.
        """
        nearer = int(self.impostors_below.sum()) + int(self.impostors_up_to.sum())
        return 1.0 - nearer / (2 * self.num_genuine * self.num_impostor)

    @property
    def eer(self) -> float:
        """Equal error rate: FAR where FAR = 1 - TAR, on the curve of straight lines between its points."""
        far, tar = self._points()
        excess = far + tar - 1.0  # FAR minus the share of genuine pairs rejected: rises along the curve from -1 to 1
        after = int(np.searchsorted(excess, 0.0))
        share = -excess[after - 1] / (excess[after] - excess[after - 1])
        return float(far[after - 1] + share * (far[after] - far[after - 1]))

    def tar_at(self, far: float) -> float:
        """The largest TAR of any threshold whose FAR is at most `far`, 0..1."""
        return self._num_accepted(far) / self.num_genuine

    def threshold_at(self, far: float) -> float | None:
        """The smallest threshold that gives `tar_at(far)`; None where none accepts a single genuine pair."""
        accepted = self._num_accepted(far)
        return float(self.thresholds[accepted - 1]) if accepted else None

    def curve(self, num_points: int = 400) -> tuple[np.ndarray, np.ndarray]:
        """FAR and TAR, float64, at no more than `num_points`, 4 or more, points of the curve; from (0, 0) to (1, 1).

        One half of the points is spread evenly over TAR, the other evenly over the logarithm of FAR, so that nothing
        is lost on either kind of axis. The largest TAR at a FAR of 0 is always there.
        """
        far, tar = self._points()
        if len(far) <= num_points:
            return far, tar
        by_tar = np.searchsorted(tar, np.linspace(0.0, 1.0, num_points // 2 - 1))
        by_far = np.searchsorted(far, np.geomspace(1.0 / self.num_impostor, 1.0, num_points // 2 - 1))
        corners = [np.searchsorted(far, 0.0, side="right") - 1, len(far) - 1]
        chosen = np.unique(np.concatenate([by_tar, by_far, corners]))
        return far[chosen], tar[chosen]

    def _num_accepted(self, far: float) -> int:
        """Genuine pairs that can be accepted together with no more than `far` of the impostors."""
        # Compared as rates: the nearest float to 29 / 100 is "0.29", whereas 0.29 * 100 is less than 29.
        rates = self.impostors_up_to.double() / self.num_impostor
        return int(torch.searchsorted(rates, torch.tensor(far, dtype=torch.float64), right=True))

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        """FAR and TAR just before and at each distinct threshold, between the ends (0, 0) and (1, 1)."""
        is_last = torch.ones(self.num_genuine, dtype=torch.bool)  # of the genuine pairs of its distance
        is_last[:-1] = self.thresholds[1:] != self.thresholds[:-1]
        accepted = is_last.nonzero().flatten() + 1
        before = torch.cat([torch.zeros(1, dtype=torch.int64), accepted[:-1]])
        far = torch.stack([self.impostors_below[is_last], self.impostors_up_to[is_last]], dim=1).flatten()
        tar = torch.stack([before, accepted], dim=1).flatten()
        return (
            np.concatenate([[0], far.numpy(), [self.num_impostor]]) / self.num_impostor,
            np.concatenate([[0], tar.numpy(), [self.num_genuine]]) / self.num_genuine,
        )


@dataclass(frozen=True)
class PairStatistics:
    """The ROC of all pairs of a retrieval test and the histograms it comes from.

    A bin holds the distances above its left edge, up to and including its right one; the first also those of 0.

    Attributes:
        roc: the curve.
        bin_edges: (B + 1,) float32, equal steps from 0 to the largest distance of any pair that counts.
        genuine: (B,) int64, genuine pairs in each bin.
        impostor: (B,) int64, impostors in each bin.
    """

    roc: Roc
    bin_edges: Tensor
    genuine: Tensor
    impostor: Tensor


def roc(genuine: Tensor, impostor: Tensor) -> Roc:
    """The ROC of pairs whose distances are in memory.

    Args:
        genuine: (T,) float32, finite distances of the genuine pairs, at least one, in any order.
        impostor: (N,) float32, likewise of the impostors.
    """
    thresholds, impostor = genuine.sort().values, impostor.sort().values
    below = torch.searchsorted(impostor, thresholds)
    up_to = torch.searchsorted(impostor, thresholds, right=True)
    return Roc(thresholds.cpu(), below.cpu(), up_to.cpu(), len(impostor))


def pair_statistics(genuine: Tensor, impostor: Tensor, num_bins: int = 200) -> PairStatistics:
    """`roc`, with its arguments, and the histograms of `num_bins` bins."""
    curve = roc(genuine, impostor)
    bin_edges = _bin_edges(float(torch.cat([genuine, impostor]).max()), num_bins, genuine.device)
    histograms = (
        _per_bin(torch.searchsorted(side.sort().values, bin_edges[1:-1], right=True).cpu(), len(side))
        for side in (genuine, impostor)
    )
    return PairStatistics(curve, bin_edges.cpu(), *histograms)


def retrieval_roc(
    distances: Distances, truth: GroundTruth, memory: int = MEMORY, num_bins: int = 200
) -> PairStatistics:
    """The ROC of all pairs of a query and a gallery image that is not ignored: true matches against all others.

    Queries without a true match contribute impostors, unless their pid is 0 or -1: a distractor may show the same
    person, so that such pairs do not count. The distances are computed twice, in blocks of queries: once for the
    genuine pairs, once to count the impostors between them.

    Args:
        distances: of every query to every gallery image.
        truth: which pairs are genuine and which are ignored.
        memory: bytes that one block of queries may take.
        num_bins: B of the histograms.

    Raises:
        DataError: no genuine pair, or no impostor.
    """
    if not truth.num_matches.any():
        raise DataError(f"none of the {truth.shape[0]} query images has a true match in the gallery")
    genuine, largest = _genuine(distances, truth, memory)
    bin_edges = _bin_edges(largest, num_bins, genuine.device)
    # "Nearer than t" means "at most the float before t", so that one kind of count is enough.
    just_below = genuine.nextafter(torch.full_like(genuine, -torch.inf))
    edges = torch.cat([genuine, just_below, bin_edges[1:-1]]).unique()
    at_most = torch.zeros_like(edges, dtype=torch.int64)
    num_impostor = 0
    for start, stop in ranking_blocks(distances, memory):
        block = distances.rows(start, stop)
        is_person = truth.is_person[start:stop]
        block[~is_person] = torch.inf
        num_impostor += int(is_person.sum()) * block.shape[1]
        for rows, columns in (truth.ignored(start, stop), _matches(truth, start, stop)):
            block[rows, columns] = torch.inf
            num_impostor -= int(is_person[rows].sum())
        at_most += count_at_most(block.flatten(), edges)
    if not num_impostor:
        raise DataError("every pair of a query and a gallery image shows one person: there is no impostor to reject")

    def impostors_up_to(values: Tensor) -> Tensor:
        return at_most[torch.searchsorted(edges, values)].cpu()

    curve = Roc(genuine.cpu(), impostors_up_to(just_below), impostors_up_to(genuine), num_impostor)
    inner = bin_edges[1:-1]
    genuine_up_to = torch.searchsorted(genuine, inner, right=True).cpu()
    histograms = _per_bin(genuine_up_to, len(genuine)), _per_bin(impostors_up_to(inner), num_impostor)
    return PairStatistics(curve, bin_edges.cpu(), *histograms)


def count_at_most(numbers: Tensor, edges: Tensor) -> Tensor:
    """How many numbers are at most as large as each edge.

    Args:
        numbers: (N,) float32, no NaN; on the CPU they are left in another order.
        edges: (E,) float32, ascending, on the same device.

    Returns:
        (E,) int64.
    """
    if numbers.device.type != "cpu":
        return torch.searchsorted(numbers.sort().values, edges, right=True)
    pieces = np.array_split(numbers.numpy(), num_own_cpus())

    def count(piece: np.ndarray) -> np.ndarray:
        piece.sort()
        return np.searchsorted(piece, edges.numpy(), side="right")

    # NumPy sorts values with vector instructions, several times as fast as torch, and lets other threads run.
    with ThreadPoolExecutor(len(pieces)) as pool:
        return torch.from_numpy(np.sum(list(pool.map(count, pieces)), axis=0))


def _genuine(distances: Distances, truth: GroundTruth, memory: int) -> tuple[Tensor, float]:
    """The distances of all genuine pairs, ascending (T,), and the largest distance of any pair that counts."""
    found, largest = [], 0.0
    for start, stop in ranking_blocks(distances, memory):
        block = distances.rows(start, stop)
        found.append(block[_matches(truth, start, stop)])
        block[truth.ignored(start, stop)] = 0.0
        block[~truth.is_person[start:stop]] = 0.0
        largest = max(largest, float(block.max()))
    return torch.cat(found).sort().values, largest


def _matches(truth: GroundTruth, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Row within the block and gallery index of each genuine pair of queries start..stop."""
    index, is_match = truth.matches(start, stop)
    rows, places = is_match.nonzero(as_tuple=True)
    return rows, index[rows, places]


def _bin_edges(largest: float, num_bins: int, device: torch.device) -> Tensor:
    """(B + 1,) float32; where every distance is 0 the bins reach up to 1."""
    return torch.linspace(0.0, largest or 1.0, num_bins + 1, device=device)


def _per_bin(up_to: Tensor, total: int) -> Tensor:
    """(B,) counts of the bins, from the counts up to each of the (B - 1,) edges between them."""
    return up_to.diff(prepend=torch.tensor([0]), append=torch.tensor([total]))
