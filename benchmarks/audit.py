"""Plant mistakes in the labels of a data set, audit it, and tabulate what is found; no image is copied or changed.

    python -m benchmarks.audit datasets/Market-1501 --from runs/first/model_best.pth --out benchmarks/results/audit
    python -m benchmarks.audit datasets/Market-1501 --retrain recipes/real_pictures/recipes/stripes_8_epochs.json \
        --set imagenet_pretrain=false pretrain_snapshot=resnet18.pth --out benchmarks/results/audit_retrained

The first judges planted mistakes of each kind by one network. The second trains on wrong labels, audits them with the
network that learned them, or with --set audit_params.folds=2, trains on the corrected labels and on the right ones, and
says how much of the lost mAP is regained; finished runs are not repeated. Writes OUT.md and OUT.json.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from audit.embedding import view_of_checkpoint
from audit.findings import Findings, Pool, largest_pid, pool_of
from audit.judge import View, judge, view_of
from audit.pixels import Pixels, read_pixels
from benchmarks.report import Report, Row
from benchmarks.trainings import ROOT, Job, run_process, train_all
from config.params import Params
from data.dataset import find_root, read_dataset
from data.label_fixes import Fix, apply_fixes, fixes_between, write_fixes
from data.samples import Sample, sorted_pids
from utils.checkpoint import MODEL_BEST
from utils.cli import exit_code_of
from utils.device import choose_device
from utils.logs import log_to_screen

RATES = (0.01, 0.02, 0.05, 0.1)
LEAST = 0.5
"""Score from which a finding counts."""
NEAR_DUPLICATE = 0.0
NUM_COPIES = 50


class Relabelled(NamedTuple):
    """Training images with planted mistakes."""

    samples: list[Sample]
    mistakes: set[Any]
    """Rows of images; or pids; or pairs of pids; or paths."""


def main(argv: Sequence[str]) -> None:
    """Measure what the command line asks for, and write the results."""
    args = parse_arguments(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    device = choose_device(())
    report = Report("Audit of planted mistakes", device.type)
    if args.checkpoint is not None:
        report.tables[f"Judged by {args.checkpoint}; score of at least {LEAST}"] = planted_table(args, device)
        report.notes.append(
            "Wrong labels: images with the label of a random other identity. Two persons: pairs of identities taken as "
            "one. One person: identities divided by camera. Copies: query images among the training images. Right: of "
            "the wrong labels found, those whose suggested identity is the true one."
        )
    if args.retrain is not None:
        report.tables[f"{args.retrain.stem}, {args.rates[0]:.0%} wrong labels"] = retrained_table(args)
        report.notes.append(
            "Metrics after the last epoch. Regained: share of the mAP lost by wrong labels that corrections regain."
        )
    report.save(args.out)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set")
    parser.add_argument("--from", dest="checkpoint", type=Path, help="the network that judges")
    parser.add_argument("--retrain", type=Path, help="params file to train with on wrong, corrected and right labels")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the params file")
    parser.add_argument(
        "--rates", nargs="+", type=float, help="shares of mistakes; default: 0.01 to 0.1, 0.05 to train"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the planted mistakes and of the trainings")
    parser.add_argument("--working_dir", type=Path, default=Path("runs/audit"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the CPU's cores")
    parser.add_argument("--out", type=Path, required=True, help="the results, without suffix")
    args = parser.parse_args(argv)
    if (args.checkpoint is None) == (args.retrain is None):
        parser.error("give either --from CHECKPOINT or --retrain PARAMS")
    args.rates = args.rates or (RATES if args.retrain is None else (0.05,))
    return args


def planted_table(args: argparse.Namespace, device: torch.device) -> list[Row]:
    """Precision and recall for each kind of mistake, by one network that embeds the images once."""
    params = Params(batches_dir=str(args.data), seed=args.seed)
    dataset = read_dataset(params)
    pool = pool_of(dataset, params, largest_pid(dataset))
    pixels = read_pixels([sample.path for sample in pool.samples])
    view = view_of_checkpoint(args.checkpoint, params, pool, device)

    def judged(samples: Sequence[Sample]) -> Findings:
        relabelled = pool._replace(samples=[*samples, *pool.samples[pool.num_train :]])
        return judge(relabelled, pixels, [view], NEAR_DUPLICATE, args.seed)

    train, rows = pool.samples[: pool.num_train], []
    rng = np.random.default_rng(args.seed)
    for rate in (0.0, *args.rates):
        planted = swap(train, rate, rng)
        found = judged(planted.samples)
        flagged = set(found.swapped(LEAST))
        hits = [row for row in flagged & planted.mistakes if int(found.swaps.nearest[row]) == train[row].pid]
        rows.append(row_of(f"{rate:.0%} wrong labels", flagged, planted.mistakes, len(hits)))
    for rate in args.rates:
        planted = join(train, rate, rng)
        found = {split.label for split in judged(planted.samples).splits if split.probability >= LEAST}
        rows.append(row_of(f"{rate:.0%} two persons", found, planted.mistakes))
        planted = divide(train, rate, rng)
        merges = judged(planted.samples).merges
        pairs = {(merge.first, merge.second) for merge in merges if merge.probability >= LEAST}
        rows.append(row_of(f"{rate:.0%} one person", pairs, planted.mistakes))
    rows.append(leaks_row(pool, pixels, view, device, rng))
    return rows


def leaks_row(pool: Pool, pixels: Pixels, view: View, device: torch.device, rng: np.random.Generator) -> Row:
    """Query images as training images of random identities."""
    queries = pool.num_train + rng.choice(pool.num_query, min(NUM_COPIES, pool.num_query), replace=False)
    pids = sorted_pids(pool.samples[: pool.num_train])
    copies = [pool.samples[row]._replace(pid=int(rng.choice(pids))) for row in queries.tolist()]
    order = np.concatenate([np.arange(pool.num_train), queries, np.arange(pool.num_train, len(pool.samples))])
    samples = [*pool.samples[: pool.num_train], *copies, *pool.samples[pool.num_train :]]
    both = pool._replace(samples=samples, num_train=pool.num_train + len(copies))
    doubled = Pixels(*(part[order] for part in pixels))
    is_judged = torch.arange(len(samples)) < both.num_train
    features = view.features[torch.from_numpy(order)]
    found = judge(both, doubled, [view_of(features, is_judged, device)], NEAR_DUPLICATE, 0)
    leaked = {row for group in found.copies for row in group.rows if row < both.num_train}
    return row_of("copies of query images", leaked, set(range(pool.num_train, both.num_train)))


def row_of(name: str, found: set[Any], mistakes: set[Any], right: int | None = None) -> Row:
    """A row of the table."""
    hits = len(found & mistakes)
    row: Row = {"planted": name, "mistakes": len(mistakes), "found": len(found)}
    row["precision"] = 100 * hits / len(found) if found else "–"
    row["recall"] = 100 * hits / len(mistakes) if mistakes else "–"
    row["right"] = "–" if right is None or not hits else 100 * right / hits
    return row


def swap(samples: Sequence[Sample], rate: float, rng: np.random.Generator) -> Relabelled:
    """Give a share of the images the label of a random other identity."""
    pids = sorted_pids(samples)
    rows = set(rng.choice(len(samples), round(rate * len(samples)), replace=False).tolist())
    planted = list(samples)
    for row in sorted(rows):
        planted[row] = samples[row]._replace(pid=int(rng.choice([pid for pid in pids if pid != samples[row].pid])))
    return Relabelled(planted, rows)


def join(samples: Sequence[Sample], rate: float, rng: np.random.Generator) -> Relabelled:
    """Make one identity of each of some pairs; as many as a share of all identities."""
    pids = sorted_pids(samples)
    chosen = rng.permutation(pids)[: 2 * max(1, round(rate * len(pids)))].tolist()
    into = dict(zip(chosen[1::2], chosen[::2], strict=False))
    return Relabelled([sample._replace(pid=into.get(sample.pid, sample.pid)) for sample in samples], {*into.values()})


def divide(samples: Sequence[Sample], rate: float, rng: np.random.Generator) -> Relabelled:
    """Make two identities of each of a share of those that several cameras see, by camera."""
    cameras: dict[int, set[int]] = {}
    for sample in samples:
        cameras.setdefault(sample.pid, set()).add(sample.camid)
    several = [pid for pid in sorted(cameras) if len(cameras[pid]) > 1]
    chosen = rng.permutation(several)[: max(1, round(rate * len(cameras)))].tolist()
    new = dict(zip(chosen, range(10**9, 10**9 + len(chosen)), strict=True))
    moved = {pid: set(rng.permutation(sorted(cameras[pid]))[: len(cameras[pid]) // 2].tolist()) for pid in chosen}
    planted = [
        sample._replace(pid=new[sample.pid]) if sample.camid in moved.get(sample.pid, ()) else sample
        for sample in samples
    ]
    return Relabelled(planted, {*new.items()})


def retrained_table(args: argparse.Namespace) -> list[Row]:
    """Train on wrong, corrected and right labels."""
    args.working_dir.mkdir(parents=True, exist_ok=True)
    params = Params(batches_dir=str(args.data))
    dataset, root = read_dataset(params), find_root(params)[0]
    planted = swap(dataset.train, args.rates[0], np.random.default_rng(args.seed))
    rate = f"{args.rates[0]:g}"
    noise, corrected = args.working_dir / f"wrong_{rate}.csv", args.working_dir / f"corrected_{rate}.csv"
    write_fixes(noise, fixes_between(dataset.train, planted.samples, root))
    jobs = [_job(args, "right", None), _job(args, f"wrong_{rate}", noise), _job(args, f"corrected_{rate}", corrected)]
    right, wrong, _ = jobs
    train_all([right, wrong], args.jobs)
    folder = args.working_dir / f"audit_{rate}"
    if not (folder / "fixes.csv").exists():
        run_process(_audit_command(args, noise, folder, wrong), "cuda" if torch.cuda.is_available() else "cpu")
    after = apply_fixes(dataset._replace(train=planted.samples, val=[]), folder / "fixes.csv", root)
    write_fixes(corrected, fixes_between(dataset.train, after.train, root))
    train_all(jobs, args.jobs)
    names = ("right", "wrong", "corrected")
    metrics = {name: job.records()[-1]["metrics"] for name, job in zip(names, jobs, strict=True)}
    lost = metrics["right"]["mAP"] - metrics["wrong"]["mAP"]
    regained = (metrics["corrected"]["mAP"] - metrics["wrong"]["mAP"]) / lost if lost > 0 else float("nan")
    rows: list[Row] = [
        {"labels": name, "rank1": 100 * each["rank1"], "mAP": 100 * each["mAP"]} for name, each in metrics.items()
    ]
    moves = list(_moves(folder / "fixes.csv"))
    true_pid = {str(sample.path.relative_to(root)): sample.pid for sample in dataset.train}
    mistakes = {str(dataset.train[row].path.relative_to(root)) for row in planted.mistakes}
    found = {fix.path for fix in moves}
    right = sum(fix.path in mistakes and fix.new_pid == true_pid[fix.path] for fix in moves)
    rows[-1] |= {"regained": f"{regained:.0%}", **row_of("", found, mistakes, right)}
    return [{**dict.fromkeys(rows[-1], "–"), **row} for row in rows]


def _job(args: argparse.Namespace, name: str, fixes: Path | None) -> Job:
    settings = [f"batches_dir={args.data}", f"seed={args.seed}", *args.set, f"working_dir={args.working_dir}"]
    settings += [] if fixes is None else [f"label_fixes={fixes}"]
    return Job(name, args.retrain, tuple(settings), args.working_dir)


def _audit_command(args: argparse.Namespace, noise: Path, out: Path, wrong: Job) -> list[str]:
    settings = [*_job(args, "audit", noise).settings]
    by_folds = any(setting.startswith("audit_params.folds=") for setting in settings)
    network = [] if by_folds else ["--from", str(wrong.run / MODEL_BEST)]
    command = ["--operation", "audit_data", "--config_path", str(args.retrain), "--out", str(out), *network]
    return [str(ROOT / "train.py"), *command, "--set", *settings]


def _moves(path: Path) -> Iterator[Fix]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        for line in csv.DictReader(file):
            if line["action"] == "move":
                yield Fix(line["path"], "move", int(line["pid"]), int(line["new_pid"]))


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
