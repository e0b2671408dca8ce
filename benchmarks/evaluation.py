"""How long evaluation takes, and how much memory, beside the bare product of query and gallery.

    python -m benchmarks.evaluation --size market --out benchmarks/results/evaluation
    python -m benchmarks.evaluation --size msmt --parts ranking --device cuda --out benchmarks/results/evaluation_gpu

Parts: "ranking", from embeddings to CMC, mAP and mINP; "roc", the ROC over all pairs; "k_reciprocal", re-ranking and
ranking; "textbook", ranking by sorting the whole matrix of distances, always on the CPU. Each runs in a process of its
own on made-up embeddings; memory is what it takes beyond them, at its peak. Beside each repetition the bare product of
the embeddings is timed in the same process: in blocks of rows into a buffer used again and again, and as one whole
matrix. Writes OUT.json (every figure) and OUT.md (the tables). Linux only.
"""

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cost import measured, memory_in_use
from benchmarks.planted import SIZES, planted_features
from benchmarks.product import bare_products
from benchmarks.textbook import RANKS, textbook_metrics
from data.features import TestFeatures
from evaluate.core.retrieval.distances import Distances, FeatureDistances
from evaluate.core.retrieval.k_reciprocal import KReciprocalDistances
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.ranking import rank
from evaluate.core.verification.roc import retrieval_roc
from utils.cli import exit_code_of
from utils.errors import ParamsError
from utils.files import write_json, write_text
from utils.logs import log_to_screen
from utils.process import num_cpus


def ranking(features: TestFeatures) -> dict[str, float]:
    """From raw embeddings to metrics."""
    return _rank_metrics(_plain(features), _truth(features))


def roc(features: TestFeatures) -> dict[str, float]:
    """The ROC over all pairs."""
    curve = retrieval_roc(_plain(features), _truth(features)).roc
    return {"auc": curve.auc, "eer": curve.eer, "tar_at_far_0.001": curve.tar_at(1e-3)}


def k_reciprocal(features: TestFeatures) -> dict[str, float]:
    """Re-ranking, then ranking."""
    return _rank_metrics(
        KReciprocalDistances(features.query.features, features.gallery.features, "cosine"), _truth(features)
    )


PARTS: dict[str, Callable[[TestFeatures], dict[str, float]]] = {
    "ranking": ranking,
    "roc": roc,
    "k_reciprocal": k_reciprocal,
    "textbook": textbook_metrics,
}
ON_CPU = ("textbook",)


def main(argv: Sequence[str]) -> None:
    """Measure each part in a process of its own, then write the tables."""
    args = parse_arguments(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ParamsError("--device cuda: there is no CUDA device on this machine")
    results = {}
    for part in args.parts:
        print(f"{part} ...", file=sys.stderr, flush=True)
        # A new process, not a copy of this one: nothing that another part has left behind counts for this one.
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            device = "cpu" if part in ON_CPU else args.device
            results[part] = pool.submit(measure_part, part, args.size, device, args.repeats, args.seed).result()
    size = SIZES[args.size]
    report = {
        "date": date.today().isoformat(),
        "hardware": hardware(args.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "size": {"name": args.size, **size._asdict()},
        "repeats": args.repeats,
        "seed": args.seed,
        "results": results,
        "largest_difference_from_textbook": largest_difference(results),
    }
    table = table_of(report)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out.with_suffix(".json"), report)
    write_text(args.out.with_suffix(".md"), table)
    print(table)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="market", help="the test set whose size is taken")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the embeddings")
    parser.add_argument("--out", type=Path, required=True, help="the results, without suffix")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"argument --repeats: at least 1 expected, got {args.repeats}")
    return args


def measure_part(part: str, size: str, device_name: str, repeats: int, seed: int) -> dict[str, Any]:
    """Seconds and memory of one part and seconds of the bare product, of each repetition."""
    device = torch.device(device_name)
    features = _to_device(planted_features(SIZES[size], seed), device)
    # Before anything else has run: what libraries keep from their first use on counts as the part's memory.
    before = memory_in_use(device)
    work = PARTS[part]
    work(_to_device(planted_features(SIZES["small"], seed), device))  # first use costs time that no later one does
    products = bare_products(features.query.features, features.gallery.features)
    seconds: list[float] = []
    peaks: list[int] = []
    product_seconds: dict[str, list[float]] = {name: [] for name in products}
    metrics: dict[str, float] = {}
    for _ in range(repeats):
        for name, product in products.items():
            product_seconds[name].append(measured(product, device)[1].seconds)
        metrics, cost = measured(lambda: work(features), device)
        seconds.append(cost.seconds)
        peaks.append(cost.peak_bytes - before)
    fastest = {
        kind: min(statistics.median(product_seconds[name]) for name in products if name.endswith(kind))
        for kind in ("blocks", "whole")
    }
    return {
        "device": device_name,
        "seconds": seconds,
        "peak_bytes_beyond_features": peaks,
        "feature_bytes": sum(part.features.nbytes for part in features),
        "product_seconds": product_seconds,
        "ratio_to_product_in_blocks": statistics.median(seconds) / fastest["blocks"],
        "ratio_to_whole_product": statistics.median(seconds) / fastest["whole"],
        "metrics": metrics,
    }


def largest_difference(results: dict[str, Any]) -> float | None:
    """Of any metric of ranking from the textbook's; None unless both were measured."""
    if not {"ranking", "textbook"} <= results.keys():
        return None
    ours, theirs = (results[part]["metrics"] for part in ("ranking", "textbook"))
    return max(abs(ours[name] - theirs[name]) for name in theirs)


def table_of(report: dict[str, Any]) -> str:
    """Markdown: what each part costs, and what the bare product does in the same process."""
    size = report["size"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"{report['date']}; {report['hardware']}; {versions}",
        "",
        f"{size['name']}: {size['num_query']} queries x {size['num_gallery']} gallery images of {size['num_pids']} "
        f"identities, {size['dim']} dimensions; median (least to most) of {report['repeats']} repetitions; memory at "
        "its peak, beyond the embeddings",
        "",
        "| part | seconds | x product in blocks | x whole product | memory, MiB | metrics |",
        "|---|---|---|---|---|---|",
    ]
    for part, result in report["results"].items():
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
        ratios = f"{result['ratio_to_product_in_blocks']:.2f} | {result['ratio_to_whole_product']:.2f}"
        memory = max(result["peak_bytes_beyond_features"]) / 2**20
        name = f"{part} ({result['device']})"
        lines.append(f"| {name} | {_spread(result['seconds'])} | {ratios} | {memory:.0f} | {metrics} |")
    lines += ["", "| bare product beside | way | seconds |", "|---|---|---|"]
    for part, result in report["results"].items():
        lines += [f"| {part} | {way} | {_spread(seconds)} |" for way, seconds in result["product_seconds"].items()]
    if (difference := report["largest_difference_from_textbook"]) is not None:
        lines += [
            "",
            f"Largest difference of a metric between ranking and textbook: {difference:.1e} (their distances round "
            "differently, which swaps images that are all but equally near)",
        ]
    return "\n".join(lines) + "\n"


def hardware(device: str) -> str:
    """What was measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    cpu = f"{models[0] if models else platform.machine()}, {num_cpus()} cores, {torch.get_num_threads()} threads"
    if threads := os.environ.get("OMP_NUM_THREADS"):
        cpu += f" (OMP_NUM_THREADS={threads})"
    return f"{torch.cuda.get_device_name()}; {cpu}" if device == "cuda" else f"{cpu}, no GPU"


def _to_device(features: TestFeatures, device: torch.device) -> TestFeatures:
    return TestFeatures(*(part._replace(features=part.features.to(device)) for part in features))


def _plain(features: TestFeatures) -> FeatureDistances:
    return FeatureDistances(features.query.features, features.gallery.features, "cosine")


def _truth(features: TestFeatures) -> GroundTruth:
    device = features.gallery.features.device
    labels = (numbers for part in features for numbers in (part.pids, part.camids))
    return GroundTruth(*(numbers.to(device) for numbers in labels))


def _rank_metrics(distances: Distances, truth: GroundTruth) -> dict[str, float]:
    result = rank(distances, truth)
    means = {"mAP": result.mean_ap, "mAP_trapezoid": result.mean_ap_trapezoid, "mINP": result.mean_inp}
    return {f"rank{k}": result.cmc(k) for k in RANKS} | means


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.3g} ({min(seconds):.3g} to {max(seconds):.3g})"


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
