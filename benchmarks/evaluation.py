"""How long evaluation takes, how much memory, and how exact it is, at the sizes of the known test sets.

    python -m benchmarks.evaluation --size market --out benchmarks/results/evaluation_here
    python -m benchmarks.evaluation --size msmt --parts ranking --device cuda

Parts: "ranking", from embeddings to CMC, mAP and mINP; "roc", the ROC over all pairs; "k_reciprocal", re-ranking and
ranking; "textbook", ranking by sorting the whole distance matrix, always on the CPU; "product", the bare product of
query and gallery in blocks, which any exact evaluation has to spend; "extraction", images of 256 x 128 to embeddings
with a ResNet-50. Each runs in a process of its own, on embeddings made up with a known structure; memory is the peak
beyond them. Linux only.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Contestant, Cost, measured
from benchmarks.planted import SIZES, planted_features
from benchmarks.report import Report
from config.params import Params
from data.dataset import read_dataset
from data.features import TestFeatures
from data.samples import DISTRACTOR_PID, JUNK_PID, sorted_pids
from data.synthetic.dataset import make_synthetic
from data.synthetic.options import SyntheticOptions
from evaluate.core.context import EvalContext
from evaluate.core.extract import extract
from evaluate.core.retrieval.distances import Distances, FeatureDistances, full_precision
from evaluate.core.retrieval.k_reciprocal import KReciprocalDistances
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.ranking import rank
from evaluate.core.verification.roc import retrieval_roc
from models.network import Embedder, build_network
from utils.cli import exit_code_of
from utils.errors import ParamsError
from utils.logs import log_to_screen

RANKS = (1, 5, 10)
BLOCK = 512  # queries of a block of the bare product; more are no faster
Metrics = dict[str, float]


def ranking(features: TestFeatures) -> Metrics:
    """From raw embeddings to metrics."""
    return _rank_metrics(FeatureDistances(features.query.features, features.gallery.features, "cosine"), features)


def roc(features: TestFeatures) -> Metrics:
    """The ROC over all pairs."""
    distances = FeatureDistances(features.query.features, features.gallery.features, "cosine")
    curve = retrieval_roc(distances, _truth(features)).roc
    return {"auc": curve.auc, "eer": curve.eer, "tar_at_far_0.001": curve.tar_at(1e-3)}


def k_reciprocal(features: TestFeatures) -> Metrics:
    """Re-ranking, then ranking."""
    return _rank_metrics(KReciprocalDistances(features.query.features, features.gallery.features, "cosine"), features)


def product(features: TestFeatures) -> Metrics:
    """The bare product at full precision, a block of queries at a time."""
    query, gallery = features.query.features, features.gallery.features
    with full_precision():
        buffer = torch.empty(BLOCK, len(gallery), device=query.device)
        for block in query.split(BLOCK):
            torch.mm(block, gallery.T, out=buffer[: len(block)])
    return {}


def textbook(features: TestFeatures) -> Metrics:
    """Retrieval metrics by "cosine" with Market-1501's rules: the whole matrix, sorted, and a loop over its rows."""
    query, gallery = (part.features.numpy() for part in features)
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    order = np.argsort(1.0 - query @ gallery.T, axis=1)
    gallery_pids, gallery_camids = features.gallery.pids.numpy(), features.gallery.camids.numpy()
    first, ap, ap_trapezoid, inp = [], [], [], []
    for row, (pid, camid) in enumerate(zip(features.query.pids.tolist(), features.query.camids.tolist(), strict=True)):
        pids, camids = gallery_pids[order[row]], gallery_camids[order[row]]
        is_seen = (pids != JUNK_PID) & ((pids != pid) | (camids != camid))
        hits = np.flatnonzero((pids == pid)[is_seen])
        if pid in (JUNK_PID, DISTRACTOR_PID) or not len(hits):
            continue
        found = np.arange(1, len(hits) + 1)
        precision = found / (hits + 1)
        precision_before = np.where(hits > 0, (found - 1) / np.maximum(hits, 1), 1.0)
        first.append(hits[0])
        ap.append(precision.mean())
        ap_trapezoid.append((precision_before + precision).mean() / 2)
        inp.append(len(hits) / (hits[-1] + 1))
    metrics = {f"rank{k}": float((np.array(first) < k).mean()) for k in RANKS}
    means = {"mAP": ap, "mAP_trapezoid": ap_trapezoid, "mINP": inp}
    return metrics | {name: float(np.mean(values)) for name, values in means.items()}


PARTS: dict[str, Callable[[TestFeatures], Metrics]] = {
    "ranking": ranking,
    "roc": roc,
    "k_reciprocal": k_reciprocal,
    "textbook": textbook,
    "product": product,
}
EXTRACTION = "extraction"


def main(argv: Sequence[str]) -> None:
    """Measure each part in a process of its own, then write the table."""
    args = parse_arguments(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ParamsError("--device cuda: there is no CUDA device on this machine")
    size = SIZES[args.size]
    title = (
        f"Evaluation at the size of {args.size}: {size.num_query} queries, {size.num_gallery} gallery images, "
        f"{size.dim} dimensions; {args.repeats} repetitions"
    )
    report = Report(title, args.device)
    report.tables[""] = rows = []
    for part in args.parts:
        print(f"{part} ...", file=sys.stderr, flush=True)
        device = "cpu" if part == "textbook" else args.device
        build = Extraction if part == EXTRACTION else Ranking
        with Contestant(build, part, args, device) as contestant:
            results = [contestant.ask("run") for _ in range(args.repeats)]
        costs = {"seconds": [cost.seconds for _, cost in results], "MiB": [cost.peak_mib for _, cost in results]}
        rows.append({"part": f"{part} ({device})", **costs, **results[-1][0]})
    report.save(args.out)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="market", help="the test set whose size is taken")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, EXTRACTION], default=[*PARTS, EXTRACTION])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=256, help="of the extraction; default: 256")
    parser.add_argument("--seed", type=int, default=0, help="of the embeddings")
    parser.add_argument("--out", type=Path, help="write the results here, without suffix")
    args = parser.parse_args(argv)
    if min(args.repeats, args.images) < 1:
        parser.error("--repeats, --images: at least 1 each")
    return args


class Ranking:
    """A part that works on planted embeddings, warmed up on a small problem."""

    def __init__(self, part: str, args: argparse.Namespace, device_name: str) -> None:
        self.device, self.work = torch.device(device_name), PARTS[part]
        self.work(_to_device(planted_features(SIZES["small"], args.seed), self.device))
        self.features = _to_device(planted_features(SIZES[args.size], args.seed), self.device)

    def run(self) -> tuple[Metrics, Cost]:
        """The metrics, and what they cost."""
        return measured(lambda: self.work(self.features), self.device)


class Extraction:
    """Embeds images as an evaluation does, decoding them from their files each time."""

    def __init__(self, part: str, args: argparse.Namespace, device_name: str) -> None:
        self.device, self.folder = torch.device(device_name), tempfile.TemporaryDirectory(prefix="evaluation-")
        few = SyntheticOptions(train_identities=16, test_identities=2, distractors=0, junk=0, cameras=2)
        images = make_synthetic(Path(self.folder.name) / "images", few)
        values = {"img_h": 256, "img_w": 128, "batches_dir": str(images), "model_params": {"model": "resnet_50"}}
        params = Params.model_validate(values)
        train = read_dataset(params).train
        network = build_network(params.model_params, len(sorted_pids(train)), (params.img_h, params.img_w))
        self.context = EvalContext(params, Embedder(network.to(self.device)).eval())
        self.samples = list(islice(cycle(train), args.images))
        extract(self.context, self.samples[:32], "warm-up")

    def run(self) -> tuple[Metrics, Cost]:
        """Images per second, and what all images cost."""
        _, cost = measured(lambda: extract(self.context, self.samples, EXTRACTION), self.device)
        return {"images/s": len(self.samples) / cost.seconds}, cost


def _to_device(features: TestFeatures, device: torch.device) -> TestFeatures:
    return TestFeatures(*(part._replace(features=part.features.to(device)) for part in features))


def _truth(features: TestFeatures) -> GroundTruth:
    device = features.gallery.features.device
    return GroundTruth(*(numbers.to(device) for part in features for numbers in (part.pids, part.camids)))


def _rank_metrics(distances: Distances, features: TestFeatures) -> Metrics:
    result = rank(distances, _truth(features))
    means = {"mAP": result.mean_ap, "mAP_trapezoid": result.mean_ap_trapezoid, "mINP": result.mean_inp}
    return {f"rank{k}": result.cmc(k) for k in RANKS} | means


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
