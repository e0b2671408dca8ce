"""The nearest neighbours of every image in its own set, approximately: an inverted file, searched for all at once.

Source: Jégou, Douze, Schmid 2011, Product Quantization for Nearest Neighbor Search, section IV (without quantization).
"""

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from evaluate.core.retrieval.distances import FeatureDistances, blocks, check_embeddings
from evaluate.core.retrieval.neighbours import TILE, TILE_BYTES_PER_PAIR, merged_over_processes, nearest_neighbours
from evaluate.core.retrieval.topk import NO_KEY, first_columns, indices_of, merge_smallest_
from utils.distributed import Dist, broadcast_from_rank0, gather_rows, this_process
from utils.logs import bars_hidden

SAMPLE = 50
"""Images of each cell of which its centre is computed, on average."""
ROUNDS = 5
"""Of k-means; later ones hardly move a centre."""


def find_neighbours(features: Tensor, count: int, probes: int, *, is_shared: bool = False) -> Tensor:
    """The nearest of every image by cosine: exactly, or with `probes` approximately, in about sqrt(N) cells.

    Returns and raises what `approximate_neighbours` does, whose other arguments these are; more probes than there are
    cells are all of them.
    """
    if not probes:
        return nearest_neighbours(features, count, is_shared=is_shared).order
    cells = max(1, isqrt(len(features)))
    return approximate_neighbours(features, count, cells, min(probes, cells), is_shared=is_shared)


def approximate_neighbours(
    features: Tensor,
    count: int,
    cells: int,
    probes: int,
    *,
    seed: int = 0,
    memory: int = 2**30,
    is_shared: bool = False,
) -> Tensor:
    """The nearest of every image by cosine among the images in the cells that are nearest to it.

    Each image belongs to the cell of the nearest of so many centres. About N * (cells + N * probes / cells) * D
    multiplications, instead of N * N / 2 * D. An image whose cells hold less than `count` images is compared with all.

    Args:
        features: (N, D) float32 embeddings; need not be of unit length.
        count: neighbours to find, the image itself among them; all N if that is less.
        cells: into which the images are divided, 1..N; about the square root of N is fastest.
        probes: cells in which an image's neighbours are looked for, 1..cells; with all of them the search is exact.
        seed: of the images of which the centres are computed.
        memory: bytes that temporary results may take.
        is_shared: the processes of a run share the work. All must call this, with the same arguments, and all get the
            whole result.

    Returns:
        (N, K) int64, nearest first, ties by index; on the CPU.

    Raises:
        DataError: an embedding too long for single precision, or of length zero.
        ValueError: an embedding is not finite, or a number out of its range.
    """
    if not 1 <= probes <= cells <= len(features):
        raise ValueError(f"1 <= probes <= cells <= {len(features)} expected, got {probes=}, {cells=}")
    check_embeddings(features, "cosine", "features")
    dist = this_process() if is_shared else Dist()
    centres = cell_centres(features, cells, seed)
    if dist.world_size > 1:
        # A GPU may add up in another order; the cells must be the same for all.
        centres = broadcast_from_rank0(centres.cpu()).to(features.device)
    near = nearest_centres(features[dist.share(len(features))], centres, probes, memory)
    if dist.world_size > 1:
        near = gather_rows(near)
    members, visitors = rows_by_cell(near[:, :1], cells), rows_by_cell(near, cells)
    keys = features.new_full((len(features), min(count, len(features))), NO_KEY, dtype=torch.int64)
    mine = range(dist.rank, cells, dist.world_size)
    for cell in tqdm(mine, desc="neighbours", unit="cell", leave=False, disable=bars_hidden()):
        if len(members[cell]):
            _search(features, visitors[cell], features[members[cell]], members[cell], keys, memory)
    if dist.world_size > 1:
        for part in keys.split(max(1, memory // (2 * 8 * dist.world_size * keys.shape[1]))):
            part.copy_(merged_over_processes(part))
    few = (keys[:, -1] == NO_KEY).nonzero().flatten()
    keys[few] = NO_KEY
    _search(features, few, features, torch.arange(len(features), device=features.device), keys, memory)
    return indices_of(keys).cpu()


def cell_centres(features: Tensor, cells: int, seed: int) -> Tensor:
    """(cells, D) float32 of unit length: centres by k-means of a random sample of the directions."""
    number = min(len(features), SAMPLE * cells)
    chosen = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:number]
    sample = F.normalize(features[chosen.to(features.device)].float())
    centres = sample[:cells].clone()
    for _ in range(ROUNDS):
        own = torch.cat([(part @ centres.T).argmax(dim=1) for part in sample.split(TILE)])
        sums = torch.zeros_like(centres).index_add_(0, own, sample)
        # A centre that has lost all its images stays where it is.
        is_lost = own.bincount(minlength=cells)[:, None] == 0
        centres = F.normalize(torch.where(is_lost, centres, sums))
    return centres


def nearest_centres(features: Tensor, centres: Tensor, count: int, memory: int) -> Tensor:
    """(N, count) int64: the centres nearest to each image, nearest first."""
    distances = FeatureDistances(features, centres, "cosine", is_checked=True)
    spans = blocks(distances, memory, TILE_BYTES_PER_PAIR)
    return torch.cat([first_columns(distances.rows(*span), count) for span in spans])


def rows_by_cell(near: Tensor, cells: int) -> tuple[Tensor, ...]:
    """For each cell the rows of (N, P) that name it, in ascending order."""
    sizes = near.flatten().bincount(minlength=cells).tolist()
    return near.flatten().argsort(stable=True).div(near.shape[1], rounding_mode="floor").split(sizes)


def _search(features: Tensor, rows: Tensor, others: Tensor, index: Tensor, keys: Tensor, memory: int) -> None:
    """Merge other images, (M, D) with indices (M,) in ascending order, into the keys (N, K) of the images in `rows`."""
    for some in rows.split(TILE):
        distances = FeatureDistances(features[some], others, "cosine", is_checked=True)
        for start, stop in blocks(distances, memory, TILE_BYTES_PER_PAIR):
            found = keys[some[start:stop]]
            merge_smallest_(found, distances.rows(start, stop), index)
            keys[some[start:stop]] = found
