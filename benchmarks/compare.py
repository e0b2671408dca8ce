"""Train several params files with several seeds and tabulate how well each does.

    python -m benchmarks.compare params.json recipes/single_feature.json --seeds 0 1 2 --out benchmarks/results/heads

Every training is a run of train.py of its own; one that is finished already is not repeated, so an interrupted
comparison is taken up by the same command. Writes OUT.json (every figure) and OUT.md (the table).
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from utils.cpus import num_cpus

ROOT = Path(__file__).resolve().parent.parent
METRICS = ("rank1", "rank5", "mAP", "mINP")


def main(argv: Sequence[str]) -> int:
    """Run what is missing, then write the table."""
    args = parse_arguments(argv)
    results = {
        str(path): [trained(path, seed, args.working_dir, args.set) for seed in args.seeds] for path in args.params
    }
    report = {
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "overrides": args.set,
        "seeds": args.seeds,
        "results": results,
    }
    table = table_of(report)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    args.out.with_suffix(".md").write_text(table)
    print(table)
    return 0


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params", nargs="+", type=Path, help="params files to compare")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as for train.py")
    parser.add_argument("--working_dir", type=Path, default=Path("runs/compare"), help="where the runs lie")
    parser.add_argument("--out", type=Path, required=True, help="the results, without suffix")
    return parser.parse_args(argv)


def trained(params: Path, seed: int, working_dir: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Metrics of the best epoch of one run, its seconds, and the metrics before training."""
    name = f"{params.stem}_seed{seed}"
    run = working_dir / name
    if not finished(run):
        operation = "resume_train" if (run / "last.pth").exists() else "start_train"
        settings = [f"working_dir={working_dir}"]
        if operation == "start_train":
            settings += [f"seed={seed}", *overrides]
        command = [
            "--operation",
            operation,
            "--config_path",
            str(params),
            "--sub_working_dir",
            name,
            "--set",
            *settings,
        ]
        subprocess.run([sys.executable, str(ROOT / "train.py"), *command], check=True)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max((record for record in records if "metrics" in record), key=lambda record: record["metrics"]["mAP"])
    return {
        "metrics": best["metrics"],
        "best_epoch": best["epoch"],
        "epochs": len(records),
        "seconds": sum(record["seconds"] for record in records),
    }


def finished(run: Path) -> bool:
    """A run that is through has its best model and no resume state."""
    return (run / "model_best.pth").exists() and not (run / "last.pth").exists()


def table_of(report: dict[str, Any]) -> str:
    """A markdown table: mean and spread over the seeds, in percent."""
    seeds = ", ".join(map(str, report["seeds"]))
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"{report['date']}; {report['hardware']}; {versions}; seeds {seeds}; mean ± standard deviation, percent",
        "",
        f"| params | {' | '.join(METRICS)} | epochs | seconds a run |",
        f"|---|{'---|' * len(METRICS)}---|---|",
    ]
    for name, runs in report["results"].items():
        cells = [_mean_and_spread([100 * run["metrics"][metric] for run in runs]) for metric in METRICS]
        seconds = statistics.mean(run["seconds"] for run in runs)
        lines.append(f"| {name} | {' | '.join(cells)} | {runs[0]['epochs']} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def hardware() -> str:
    """What the trainings ran on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"{num_cpus()} CPU cores ({platform.machine()}), no GPU"


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {spread:.1f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
