"""How fast a gallery is filled and searched, what memory that takes, and what an index misses.

    python -m benchmarks.gallery [--rows 100000] [--out benchmarks/results/gallery_here]

Up to 200,000 rows the search is exact; with more an index is built, and timed. The embeddings are
those of `benchmarks/planted.py::Embeddings`, about 20 of each identity.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import measured
from benchmarks.planted import DIM, Embeddings
from benchmarks.report import Report, Row
from deploy.gallery.gallery import Gallery, Item
from utils.cli import exit_code_of, whole_number
from utils.logs import log_to_screen

K, CAMERAS = 10, 6
IMAGES = 20
"""Of an identity."""
CROP = 2000
"""Bytes of a stored image."""
STEP = 10_000
"""Rows that are added at a time."""


class Nearest:
    """The names of the K rows nearest to each query, of all rows that were seen and of one camera's."""

    def __init__(self, queries: np.ndarray) -> None:
        self.queries = queries
        self.scores = {camid: np.full((len(queries), K), -np.inf) for camid in (0, 1)}
        self.rows = {camid: np.zeros((len(queries), K), np.int64) for camid in (0, 1)}

    def update(self, first: int, vectors: np.ndarray) -> None:
        """See more rows."""
        products = self.queries @ vectors.T
        rows = np.arange(first, first + len(vectors))
        for camid in self.rows:
            wanted = rows % CAMERAS == 1 if camid else np.full(len(rows), True)
            scores = np.hstack([self.scores[camid], products[:, wanted]])
            numbers = np.hstack([self.rows[camid], np.broadcast_to(rows[wanted], (len(scores), wanted.sum()))])
            best = np.argpartition(-scores, K - 1, axis=1)[:, :K]
            self.scores[camid], self.rows[camid] = (np.take_along_axis(all_, best, 1) for all_ in (scores, numbers))


def main(argv: Sequence[str]) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", allow_abbrev=False)
    parser.add_argument("--rows", type=whole_number(2 * K, 10**8), default=100_000, help="default: 100,000")
    parser.add_argument("--queries", type=whole_number(1, 10**5), default=50, help="for each search; default: 50")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    args = parser.parse_args(argv)
    log_to_screen()
    embeddings = Embeddings(max(1, args.rows // IMAGES))
    nearest = Nearest(embeddings.draw(args.queries))
    report = Report(f"A gallery of {args.rows:,} embeddings of {DIM}, with images of {CROP:,} bytes")
    with tempfile.TemporaryDirectory(prefix="gallery-") as place:
        gallery = Gallery(place, DIM, "benchmark")
        report.tables["Filling"] = list(filling(gallery, embeddings, nearest, args.rows))
        with gallery._table("read") as table:
            what = "index" if table.describe_indices() else "exact"
        report.tables[f"Searching for {K} ({what})"] = list(searching(gallery, nearest))
    report.notes.append("Seconds include what `add` does from time to time: merging files and extending the index.")
    report.save(args.out)


def filling(gallery: Gallery, embeddings: Embeddings, nearest: Nearest, rows: int) -> Iterator[Row]:
    """A row for adding, one for optimizing, one for adding single images."""
    elapsed, peak = 0.0, 0.0
    for first in range(0, rows, STEP):
        vectors = embeddings.draw(min(STEP, rows - first))
        nearest.update(first, vectors)
        numbers = range(first, first + len(vectors))
        items = [Item(f"{number}.jpg", number % CAMERAS, 1.0 + number) for number in numbers]
        crops = [embeddings.rng.bytes(CROP) for _ in numbers]
        _, cost = measured(lambda v=vectors, i=items, c=crops: gallery.add(v, i, c), torch.device("cpu"))
        elapsed, peak = elapsed + cost.seconds, max(peak, cost.peak_mib)
    yield {"": f"adding {STEP:,} at a time", "rows/s": rows / elapsed, "peak MiB": peak}
    _, cost = measured(gallery.optimize, torch.device("cpu"))
    yield {"": "optimizing", "seconds": cost.seconds, "peak MiB": cost.peak_mib}
    start = time.perf_counter()
    singles = 100
    for number in range(singles):
        gallery.add(-embeddings.draw(1), [Item(f"single {number}")], [b"crop"])
    yield {"": "adding 1 at a time", "rows/s": singles / (time.perf_counter() - start)}


def searching(gallery: Gallery, nearest: Nearest) -> Iterator[Row]:
    """A row for each kind of search."""
    kinds: dict[str, tuple[int, dict[str, Any]]] = {
        "one query": (0, {}),
        f"one query, one camera of {CAMERAS}": (1, {"camids": [1]}),
        "one query, 1,000 seconds": (-1, {"start": 5000.0, "end": 6000.0}),
    }
    for name, (camid, filters) in kinds.items():
        found: list[set[str]] = []

        def search(query: np.ndarray, found: list[set[str]] = found, filters: dict[str, Any] = filters) -> None:
            (matches,) = gallery.search(query[None], K, **filters)
            found.append({match.item.name for match in matches})

        gallery.search(nearest.queries[:1], K, **filters)  # fills the caches
        times, cost = measured(lambda s=search: [timed(s, query) for query in nearest.queries], torch.device("cpu"))
        row: Row = {"": name, "median ms": statistics.median(times), "least": min(times), "most": max(times)}
        if camid >= 0:
            exact = [{f"{number}.jpg" for number in rows} for rows in nearest.rows[camid]]
            row["recall"] = statistics.mean(len(a & b) / K for a, b in zip(found, exact, strict=True))
        yield {**row, "peak MiB": cost.peak_mib}
    queries = nearest.queries[:16]
    times = [timed(lambda q: gallery.search(q, K), queries) for _ in range(3)]
    yield {"": f"{len(queries)} queries at once, each", "median ms": statistics.median(times) / len(queries)}


def timed(work: Callable[[np.ndarray], object], argument: np.ndarray) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    work(argument)
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
