"""How long a gallery is searched.

    python -m benchmarks.search --rows 100000 [--dim 512 --index exact --rounds 20 --out FILE]

Fills a gallery in a temporary folder with clustered random embeddings, 20 around each of as many centres as that takes,
as images of persons are, then searches for others of the same clusters: one query at a time, 16 at once, and one among
the images of one camera of six. Of hnsw and ivf_pq it also says which share of the true ten nearest they find. Prints
a table; with --out also appends it.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.cost import PROCESS
from benchmarks.evaluation import hardware
from benchmarks.reports import append
from deploy.gallery.gallery import Gallery, Item
from utils.cli import exit_code_of
from utils.logs import log_to_screen

PER_CLUSTER = 20
SPREAD = 0.7
"""Length of what separates an embedding from its centre, before both are brought to unit length."""
CAMERAS = 6
AT_ONCE = 20_000
K = 10
QUERIES = 16


class Timing(NamedTuple):
    """Milliseconds a query: of all rounds the median, the least and the most."""

    median: float
    least: float
    most: float


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write what was asked for."""
    args = parse_arguments(argv)
    log_to_screen()
    with tempfile.TemporaryDirectory(prefix="search", dir=args.folder) as folder:
        report = measure(Path(folder), args)
    print(report)
    if args.out is not None:
        append(args.out, report)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=100_000, help="images in the gallery; default: 100000")
    parser.add_argument("--dim", type=int, default=512, help="size of the embeddings; default: 512")
    parser.add_argument("--index", choices=["exact", "hnsw", "ivf_pq"], default="exact")
    parser.add_argument("--rounds", type=int, default=20, help="default: 20")
    parser.add_argument("--folder", type=Path, help="where to make the gallery; default: the system's for such")
    parser.add_argument("--out", type=Path, help="append the table to this file")
    args = parser.parse_args(argv)
    if min(args.rows, args.dim, args.rounds) < 1:
        parser.error("numbers must be at least 1")
    return args


def measure(folder: Path, args: argparse.Namespace) -> str:
    """The report as Markdown."""
    rng = np.random.default_rng(0)
    centres = _unit(rng.normal(size=(-(-args.rows // PER_CLUSTER), args.dim)))
    queries = _around(rng, centres, QUERIES)
    with Gallery(folder, args.dim, "random", index=args.index) as gallery:
        start = time.perf_counter()
        for first in range(0, args.rows, AT_ONCE):
            number = min(AT_ONCE, args.rows - first)
            items = [Item(f"{first + place}.jpg", 1 + place % CAMERAS) for place in range(number)]
            gallery.add(_around(rng, centres, number), items)
        filling = args.rows / (time.perf_counter() - start)
        start = time.perf_counter()
        gallery.search(queries[:1], K)
        first_search = time.perf_counter() - start
        one = timed(lambda number: gallery.search(queries[[number % QUERIES]], K), args.rounds)
        among = timed(lambda number: gallery.search(queries[[number % QUERIES]], K, camids=[2]), args.rounds)
        many = timed(lambda _: gallery.search(queries, K), max(3, args.rounds // 4), QUERIES)
        found = gallery.search(queries, K)
        recall = _recall([[match.id for match in row] for row in found], gallery, queries)
    rows = {"one query": one, "one query, one camera of six": among, "16 queries at once, each": many}
    memory = next(line for line in (PROCESS / "status").read_text().splitlines() if line.startswith("RssAnon"))
    lines = [
        f"{date.today().isoformat()}; {hardware('cpu')}; {args.rows:,} embeddings of {args.dim}, {args.index}",
        "",
        "| | ms a query | least to most |",
        "|---|---:|---:|",
        *(f"| {name} | {row.median:.1f} | {row.least:.1f} to {row.most:.1f} |" for name, row in rows.items()),
        "",
        f"The first search took {first_search:.1f} s. Of the ten nearest {recall:.1%} are found. "
        f"{filling:,.0f} were added per second, in steps of {AT_ONCE:,}, each forced to the disk. "
        f"{int(memory.split()[1]) / 1024:.0f} MiB of memory beside the mapped file.",
    ]
    return "\n".join(lines) + "\n"


def timed(work: Callable[[int], object], rounds: int, per_round: int = 1) -> Timing:
    """Milliseconds that each of `per_round` queries takes; a first round does not count."""
    work(0)
    found = []
    for number in range(rounds):
        start = time.perf_counter()
        work(number)
        found.append(1000 * (time.perf_counter() - start) / per_round)
    return Timing(statistics.median(found), min(found), max(found))


def _recall(found: list[list[int]], gallery: Gallery, queries: np.ndarray) -> float:
    """The share of the true nearest, by one product in double precision for each block of images, that was found."""
    ids = sorted(gallery.items())
    scores = np.empty((len(queries), len(ids)))
    for first in range(0, len(ids), AT_ONCE):
        some = ids[first : first + AT_ONCE]
        block = np.stack([gallery.vector(id_) for id_ in some]).astype(np.float64)
        scores[:, first : first + len(some)] = queries @ block.T
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    hits = [len({ids[place] for place in row} & set(ours)) for row, ours in zip(nearest, found, strict=True)]
    return sum(hits) / (len(queries) * min(K, len(ids)))


def _around(rng: np.random.Generator, centres: np.ndarray, number: int) -> np.ndarray:
    """Embeddings near centres drawn at random, (N, D) float32 of unit length."""
    chosen = centres[rng.integers(0, len(centres), number)]
    return _unit(chosen + SPREAD / np.sqrt(chosen.shape[1]) * rng.standard_normal(chosen.shape, np.float32))


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
