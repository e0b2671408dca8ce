"""Train several params files with several seeds and tabulate how well each does.

    python -m benchmarks.compare params.json recipes/single_feature.json --seeds 0 1 2 --out benchmarks/results/heads

Every training is a run of train.py of its own; one that is finished already is not repeated, so an interrupted
comparison is taken up by the same command; a finished run of other params is refused. Writes OUT.json (every figure)
and OUT.md (the table).
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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from config.load import load_params
from evaluate.core.plugins import plugin_options
from utils.checkpoint import LAST, is_finished
from utils.cli import exit_code_of
from utils.cpus import num_cpus
from utils.errors import DataError
from utils.logs import log_to_screen

ROOT = Path(__file__).resolve().parent.parent
METRICS = ("rank1", "rank5", "mAP", "mINP")


def main(argv: Sequence[str]) -> None:
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
    """Metrics of one run before training and at its best epoch, and the seconds its epochs took."""
    name = f"{params.stem}_seed{seed}"
    run = working_dir / name
    settings = [f"working_dir={working_dir}", f"seed={seed}", *overrides]
    if not is_finished(run):
        command = ["--operation", "start_train", "--config_path", str(params), "--set", *settings]
        if (run / LAST).exists():
            command = ["--operation", "resume_train", "--set", f"working_dir={working_dir}"]
        subprocess.run([sys.executable, str(ROOT / "train.py"), *command, "--sub_working_dir", name], check=True)
    wanted = load_params(params, settings, plugin_options=plugin_options).params.model_dump(mode="json")
    if json.loads((run / "params.json").read_text()) != wanted:
        raise DataError(f"{run}: this run was trained with other params; remove it or choose another --working_dir")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max((record for record in records if "metrics" in record), key=lambda record: record["metrics"]["mAP"])
    return {
        "untrained": metrics_before_training(run),
        "metrics": best["metrics"],
        "best_epoch": best["epoch"],
        "epochs": len(records),
        "seconds": sum(record["seconds"] for record in records),
    }


def metrics_before_training(run: Path) -> dict[str, float]:
    """What TensorBoard shows at step 0."""
    events = EventAccumulator(str(run))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("evaluation/")]
    first = {tag.removeprefix("evaluation/"): events.Scalars(tag)[0] for tag in tags}
    return {name: event.value for name, event in first.items() if event.step == 0}


def table_of(report: dict[str, Any]) -> str:
    """A markdown table: mean and spread over the seeds, in percent."""
    seeds = ", ".join(map(str, report["seeds"]))
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"{report['date']}; {report['hardware']}; {versions}; seeds {seeds}; mean ± standard deviation, percent",
        "",
        f"| params | {' | '.join(METRICS)} | rank1 untrained | epochs |",
        f"|---|{'---|' * len(METRICS)}---|---|",
    ]
    for name, runs in report["results"].items():
        cells = [_mean_and_spread([100 * run["metrics"][metric] for run in runs]) for metric in METRICS]
        untrained = _mean_and_spread([100 * run["untrained"]["rank1"] for run in runs])
        lines.append(f"| {name} | {' | '.join(cells)} | {untrained} | {runs[0]['epochs']} |")
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
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
