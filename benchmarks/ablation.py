"""Train recipes with several seeds, each next to the one it extends, and tabulate and draw what every change does.

    python -m benchmarks.ablation --jobs 2 --out benchmarks/results/ablation
    python -m benchmarks.ablation params.json recipes/single_feature.json --out benchmarks/results/heads

Every training is a run of train.py of its own; one that is finished already is not repeated, so an interrupted
ablation is taken up by the same command; a run of other params is refused. A recipe whose teacher or snapshot is a run
RECIPE_seedN of another recipe gets that recipe's run with its own seed. Writes OUT.json (every figure), OUT.md (the
table) and OUT.png (the chart). All metrics are those after the last epoch: choosing the best epoch would be choosing
on the test set.
"""

import argparse
import json
import math
import platform
import signal
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablation_chart import draw_chart
from benchmarks.rows import Row, in_words, named_runs, read_rows, resolved, run_name
from benchmarks.trainings import ROOT, Job, check_same_params, threads_each, train_all
from utils.cli import exit_code_of
from utils.errors import DataError
from utils.files import write_json, write_text
from utils.logs import log_to_screen
from utils.process import num_cpus

METRICS = {"rank1": "rank-1", "mAP": "mAP", "mINP": "mINP"}


def main(argv: Sequence[str]) -> None:
    """Run what is missing, then write the results."""
    args = parse_arguments(argv)
    rows = read_rows(args.recipes, args.set)
    jobs = {(row.name, seed): plan(row, seed, rows, args) for row in rows for seed in args.seeds}
    train_all(list(jobs.values()), args.jobs)
    report = {
        "title": args.title,
        "date": date.today().isoformat(),
        "hardware": hardware(args.jobs),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "overrides": args.set,
        "seeds": args.seeds,
        "rows": [
            {
                "name": row.name,
                "recipe": str(row.path.resolve().relative_to(ROOT))
                if row.path.resolve().is_relative_to(ROOT)
                else row.path.name,
                "extends": row.parent,
                "changes": row.changes,
                "in_words": in_words(row),
                "runs": [{"seed": seed, **outcome(jobs[row.name, seed])} for seed in args.seeds],
            }
            for row in rows
        ],
    }
    table = table_of(report)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out.with_suffix(".json"), report)
    write_text(args.out.with_suffix(".md"), table)
    draw_chart(report, args.out.with_suffix(".png"))
    print(table)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipes = sorted((ROOT / "recipes" / "ablation").glob("*.json"))
    parser.add_argument("recipes", nargs="*", type=Path, default=recipes, help="default: all of recipes/ablation")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as for train.py")
    parser.add_argument("--working_dir", type=Path, default=Path("runs/ablation"), help="where the runs lie")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, which share the CPU's cores")
    parser.add_argument("--title", default="", help="first line of the table")
    parser.add_argument("--out", type=Path, required=True, help="the results, without suffix")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: at least 1")
    args.seeds = list(dict.fromkeys(args.seeds))
    return args


def plan(row: Row, seed: int, rows: Sequence[Row], args: argparse.Namespace) -> Job:
    """The training of a row with one seed.

    Raises:
        DataError: its folder holds a run of other params.
    """
    settings = [*args.set, f"working_dir={args.working_dir}", f"seed={seed}"]
    others = [other.name for other in rows if other is not row]
    needs = []
    for key, (recipe, file) in named_runs(resolved(row.path, settings), others).items():
        needs.append(run_name(recipe, seed))
        settings.append(f"{key}={args.working_dir / needs[-1]}{file}")
    job = Job(run_name(row.name, seed), row.path, tuple(settings), args.working_dir, frozenset(needs))
    check_same_params(job, resolved(row.path, settings))
    return job


def outcome(job: Job) -> dict[str, Any]:
    """Metrics of a finished run after its last epoch, and how fast it trained.

    Raises:
        DataError: it was not evaluated, or by a plug-in with other metrics.
    """
    epochs = [json.loads(line) for line in (job.run / "metrics.jsonl").read_text().splitlines()]
    last = epochs[-1]
    metrics = last.get("metrics", {})
    if missing := METRICS.keys() - metrics.keys():
        raise DataError(
            f"{job.run}: its evaluation gives no {' and no '.join(sorted(missing))}; an ablation needs them"
        )
    return {
        "metrics": metrics,
        "epochs": last["epoch"],
        "examples_per_second": statistics.median(record["examples_per_second"] for record in epochs),
        "seconds": sum(record["seconds"] for record in epochs),
    }


def table_of(report: dict[str, Any]) -> str:
    """A markdown table: mean and spread over the seeds, in percent."""
    seeds = ", ".join(map(str, report["seeds"]))
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        *([report["title"], ""] if report["title"] else []),
        f"{report['date']}; {report['hardware']}; {versions}; seeds {seeds}",
        *([f"All with {', '.join(report['overrides'])}"] if report["overrides"] else []),
        "",
        "Percent, mean ± standard deviation over the seeds, after the last epoch: none is chosen on the test set. "
        "Gain: in mean mAP over the row extended, ± the standard deviation of one run, pooled over both rows.",
        "",
        f"| row | extends | changes | {' | '.join(METRICS.values())} | gain in mAP | examples/s | epochs |",
        f"|---|---|---|{'---:|' * len(METRICS)}---:|---:|---:|",
    ]
    rows = {row["name"]: row for row in report["rows"]}
    for row in rows.values():
        cells = [
            row["name"],
            row["extends"],
            row["in_words"],
            *(spread_in_words(percents(row, metric)) for metric in METRICS),
            gain_in_words(row, rows[row["extends"]]) if row["extends"] else "",
            f"{statistics.median(run['examples_per_second'] for run in row['runs']):.0f}",
            str(row["runs"][0]["epochs"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def percents(row: dict[str, Any], metric: str) -> list[float]:
    """A metric of each of a row's runs."""
    return [100 * run["metrics"][metric] for run in row["runs"]]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; a single value has none."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def spread_in_words(values: Sequence[float]) -> str:
    """Mean ± standard deviation; a single value stands alone."""
    mean, spread = mean_and_spread(values)
    return f"{mean:.1f} ± {spread:.1f}" if len(values) > 1 else f"{mean:.1f}"


def gain_in_words(row: dict[str, Any], parent: dict[str, Any]) -> str:
    """Difference of the mean mAP, with the pooled standard deviation of the two rows, which have equally many seeds."""
    mean, spread = mean_and_spread(percents(row, "mAP"))
    base, base_spread = mean_and_spread(percents(parent, "mAP"))
    gain = f"{mean - base:+.1f}"
    return gain if len(row["runs"]) == 1 else f"{gain} ± {math.sqrt((spread**2 + base_spread**2) / 2):.1f}"


def hardware(at_once: int) -> str:
    """What the trainings ran on."""
    together = f", {at_once} trainings at once" if at_once > 1 else ""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}{together}"
    return f"{num_cpus()} CPU cores ({platform.machine()}), no GPU{together}, {threads_each(at_once)} threads each"


if __name__ == "__main__":
    log_to_screen()
    # What `kill` and `timeout` send is to stop the trainings as well, as Ctrl-C does. A shell that starts a command in
    # the background lets it ignore Ctrl-C, and its trainings would inherit that.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
