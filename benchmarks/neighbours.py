"""How long clustering without labels takes at a given size, how much memory, and what approximate neighbours cost it.

    python -m benchmarks.neighbours [--rows 12936 100000] [--out benchmarks/results/neighbours_here]

Each size has a process of its own. It searches for the 30 nearest neighbours of every embedding, computes the sparse
Jaccard distances (k1 30, k2 6, up to 0.6), and clusters them (DBSCAN, eps 0.6, 4 samples); first with the exact search,
then with the approximate one by several numbers of cells and probes. More than 200,000 rows are only searched
approximately, unless `--exact` is given; `--only 1000 16` tries one number of cells and probes. The embeddings are
those of `benchmarks/planted.py::Embeddings`, about 17 of each identity, as Market-1501 has. Linux only.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from benchmarks.measure import Contestant, Cost, measured
from benchmarks.planted import DIM, Embeddings
from benchmarks.report import Report, Row
from evaluate.core.retrieval.approximate import approximate_neighbours
from evaluate.core.retrieval.distances import FeatureDistances, blocks
from evaluate.core.retrieval.jaccard import sparse_jaccard
from evaluate.core.retrieval.neighbours import TILE_BYTES_PER_PAIR, nearest_neighbours
from evaluate.core.retrieval.topk import first_columns
from utils.cli import exit_code_of, whole_number
from utils.logs import log_to_screen

T = TypeVar("T")
K1, K2, EPS, SAMPLES = 30, 6, 0.6, 4
IMAGES = 17
"""Of an identity."""
SEARCHES = ((100, 1), (100, 2), (100, 4), (100, 8), (1000, 1), (1000, 4), (1000, 16))
"""Cells, of which there are at least `IMAGES` images each, and probes."""
COMPARED = 1000
"""Images whose exact neighbours are searched for to find out how many of them the approximate ones are."""
MOST_EXACT = 200_000
MEMORY = 2**30


class Clustering:
    """One set of embeddings, clustered in several ways."""

    def __init__(self, rows: int, device: str) -> None:
        self.device = torch.device(device)
        vectors, self.identities = Embeddings(max(1, rows // IMAGES)).labelled(rows)
        self.features = torch.from_numpy(vectors).to(self.device)
        self.sample = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:COMPARED].to(self.device)
        self.nearest = self._nearest_of_sample()
        self.exact: np.ndarray | None = None

    def run(self, cells: int, probes: int) -> list[Row]:
        """A row for each stage; 0 cells: the exact search."""
        rows = []

        def stage(name: str, work: Callable[[], T]) -> T:
            start = time.process_time()
            result, cost = measured(work, self.device)
            rows.append({"": name, **_costs(cost, time.process_time() - start)})
            return result

        order = stage("neighbours", lambda: self._search(cells, probes))
        distances = stage("Jaccard", lambda: sparse_jaccard(self.features, K1, K2, EPS, order=order, memory=MEMORY))
        rows[-1]["pairs per row"] = distances.nnz / len(order)
        clusters = DBSCAN(eps=EPS, min_samples=SAMPLES, metric="precomputed")
        stage("DBSCAN", lambda: clusters.fit(distances))
        return [*rows, {"recall": self._recall(order), **self._agreement(clusters.labels_, is_exact=not cells)}]

    def _search(self, cells: int, probes: int) -> Tensor:
        if cells:
            return approximate_neighbours(self.features, K1, cells, probes, memory=MEMORY)
        return nearest_neighbours(self.features, K1, memory=MEMORY).order

    def _agreement(self, labels: np.ndarray, *, is_exact: bool) -> Row:
        """The clusters found, compared with the identities and with those of the exact search."""
        if is_exact:
            self.exact = labels
        row: Row = {"clusters": int(labels.max()) + 1, "outliers": float((labels < 0).mean())}
        row["ARI to identities"] = float(adjusted_rand_score(self.identities, _apart(labels)))
        if self.exact is not None:
            row["ARI to exact"] = float(adjusted_rand_score(_apart(self.exact), _apart(labels)))
        return row

    def _nearest_of_sample(self) -> Tensor:
        distances = FeatureDistances(self.features[self.sample], self.features, "cosine")
        spans = blocks(distances, MEMORY, TILE_BYTES_PER_PAIR)
        return torch.cat([first_columns(distances.rows(*span), K1) for span in spans]).cpu()

    def _recall(self, order: Tensor) -> float:
        pairs = zip(order[self.sample.cpu()].tolist(), self.nearest.tolist(), strict=True)
        return float(np.mean([len({*found} & {*exact}) / len(exact) for found, exact in pairs]))


def main(argv: Sequence[str]) -> None:
    """Measure each size in a process of its own, then write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbours", allow_abbrev=False)
    whole = whole_number(2 * IMAGES, 10**8)
    parser.add_argument("--rows", type=whole, nargs="+", default=[12_936, 100_000], help="default: 12936 100000")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--exact", action="store_true", help=f"search exactly also with more than {MOST_EXACT:,} rows")
    parser.add_argument("--only", type=int, nargs=2, metavar=("CELLS", "PROBES"), help="one approximate search alone")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    args = parser.parse_args(argv)
    log_to_screen()
    sizes = " and ".join(f"{rows:,}" for rows in args.rows)
    report = Report(f"Clustering {sizes} embeddings of {DIM} without labels", args.device)
    for rows in args.rows:
        with Contestant(Clustering, rows, args.device) as contestant:
            if args.exact or (rows <= MOST_EXACT and not args.only):
                *stages, quality = contestant.ask("run", 0, 0)
                report.tables[f"{rows:,} embeddings, exact search"] = [*stages, whole_row(stages, quality)]
            approximate = [
                {"cells": cells, "probes": probes, **approximate_row(*contestant.ask("run", cells, probes))}
                for cells, probes in ([args.only] if args.only else SEARCHES)
                if rows >= cells * IMAGES
            ]
        if approximate:
            report.tables[f"{rows:,} embeddings, approximate search"] = approximate
    report.notes.append(
        'Memory is the peak beyond the embeddings and the results of earlier stages. "recall" is the share of the '
        f"{K1} nearest neighbours that are found, of {COMPARED:,} embeddings; ARI is the adjusted Rand index, in "
        "which each outlier is a cluster of its own."
    )
    report.save(args.out)


def whole_row(stages: Sequence[Row], quality: Row) -> Row:
    """The sums of the stages, and what was found."""
    sums = {name: sum(stage[name] for stage in stages) for name in ("seconds", "CPU seconds")}
    return {"": "all", **sums, "peak MiB": max(stage["peak MiB"] for stage in stages), **quality}


def approximate_row(*stages_and_quality: Row) -> Row:
    """What the search cost, and what was found."""
    search, *_, quality = stages_and_quality
    return {**{name: search[name] for name in ("seconds", "CPU seconds", "peak MiB")}, **quality}


def _costs(cost: Cost, cpu_seconds: float) -> Row:
    return {"seconds": cost.seconds, "CPU seconds": cpu_seconds, "peak MiB": cost.peak_mib}


def _apart(labels: np.ndarray) -> np.ndarray:
    """Cluster numbers in which each outlier, -1, has one of its own."""
    return np.where(labels < 0, len(labels) + np.arange(len(labels)), labels)


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
