"""Train recipes with several seeds, each next to the one it extends, and tabulate and draw what every change does.

    python -m benchmarks.ablation --jobs 2 --out benchmarks/results/ablation
    python -m benchmarks.ablation params.json recipes/single_feature.json --out benchmarks/results/heads
    python -m benchmarks.ablation recipes/market1501_ablation/*.json --set batches_dir=DIR --out real_pictures

Every training is a run of train.py. Finished runs are not repeated, so the same command resumes an interrupted
ablation; a run with other params is refused. A recipe whose teacher or snapshot is a run RECIPE_seedN of another recipe
gets that recipe's run with its own seed. Writes OUT.md, OUT.json and OUT.png. Metrics are those after the last epoch:
choosing the best epoch would be choosing on the test set.
"""

import argparse
import json
import math
import re
import signal
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.chart import draw_chart
from benchmarks.report import Report, Row, in_words, mean_and_spread
from benchmarks.trainings import ROOT, Job, resolved, train_all
from utils.cli import exit_code_of
from utils.errors import DataError, ParamsError
from utils.logs import log_to_screen

METRICS = {"rank1": "rank-1", "mAP": "mAP", "mINP": "mINP"}
RUN_KEYS = ("distillation.teacher", "pretrain_snapshot")  # settings that may name the run of another recipe
_RUN = re.compile(r"(?:.*/)?(?P<recipe>[^/]+)_seed\d+(?P<file>/[^/]+\.pth)?")


class Recipe(NamedTuple):
    """One recipe, the name of the one it extends ("" = none of this ablation), and what it changes, in words."""

    path: Path
    parent: str
    changes: str

    @property
    def name(self) -> str:
        """That of the file."""
        return self.path.stem


def main(argv: Sequence[str]) -> None:
    """Run what is missing, then write the results."""
    args = parse_arguments(argv)
    recipes = read_recipes(args.recipes, args.set)
    jobs = {
        recipe.name: [plan(recipe, seed, recipes, args.set, args.working_dir) for seed in args.seeds]
        for recipe in recipes
    }
    train_all([job for of_recipe in jobs.values() for job in of_recipe], args.jobs)
    results = {name: [outcome(job) for job in of_recipe] for name, of_recipe in jobs.items()}
    overrides = [f"all with {', '.join(args.set)}"] if args.set else []
    title = "; ".join(
        [args.title or "Ablation", *overrides, f"seeds {', '.join(map(str, args.seeds))}", f"{args.jobs} runs at once"]
    )
    report = Report(title, "cuda" if torch.cuda.is_available() else "cpu")
    report.tables[""] = [row_of(recipe, results) for recipe in recipes]
    report.notes.append(
        "Percent after the last epoch, mean ± standard deviation over the seeds. Gain: difference of the mean mAP to "
        "the extended row's, ± the standard deviation of one run, pooled over both rows."
    )
    report.save(args.out)
    mean_aps = {name: [100 * run["mAP"] for run in runs] for name, runs in results.items()}
    draw_chart(args.out.with_name(f"{args.out.name}.png"), args.title, mean_aps, {r.name: r.parent for r in recipes})


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipes = sorted((ROOT / "recipes" / "ablation").glob("*.json"))
    parser.add_argument("recipes", nargs="*", type=Path, default=recipes, help="default: all of recipes/ablation")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as for train.py")
    parser.add_argument("--working_dir", type=Path, default=Path("runs/ablation"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the CPU's cores")
    parser.add_argument("--title", default="", help="first line of the table")
    parser.add_argument("--out", type=Path, required=True, help="the results, without suffix")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: at least 1")
    args.seeds = list(dict.fromkeys(args.seeds))
    return args


def read_recipes(paths: Sequence[Path], overrides: Sequence[str]) -> list[Recipe]:
    """The recipes with what each changes.

    Raises:
        ParamsError: one is invalid, or two have the same name.
    """
    names = [path.stem for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ParamsError(f"several recipes are called {', '.join(twice)}; runs take their names from them")
    settings = {path.resolve(): flattened(resolved(path, overrides)) for path in paths}
    recipes = []
    for path in paths:
        base = json.loads(path.read_text(encoding="utf-8")).get("extends")
        parent = (path.parent / base).resolve() if base else None
        before = settings.get(parent) if parent else None
        changes = changes_in_words(before, settings[path.resolve()]) if before else ""
        recipes.append(Recipe(path, parent.stem if before and parent else "", changes))
    return recipes


def flattened(params: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        flat |= flattened(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def changes_in_words(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What differs between two recipes' flat settings."""
    words = []
    for key in after:
        old, new = before.get(key), after[key]
        if old == new or key in ("seed", "working_dir"):
            continue
        name = key.partition(".")[2] or key
        if isinstance(new, bool):
            words.append(f"{name} {'on' if new else 'off'}")
        elif key in RUN_KEYS and (match := _RUN.fullmatch(new)):
            words.append(f"{name} {match['recipe']}")
        else:
            words.append(f"{name} {'none' if old == '' else old} → {'none' if new == '' else new}")
    return ", ".join(words)


def plan(recipe: Recipe, seed: int, recipes: Sequence[Recipe], overrides: Sequence[str], working_dir: Path) -> Job:
    """The training of a recipe with one seed, after those of its teacher and snapshot."""
    settings = [*overrides, f"working_dir={working_dir}", f"seed={seed}"]
    flat = flattened(resolved(recipe.path, settings))
    others = [other.name for other in recipes if other is not recipe]
    needs = []
    for key in RUN_KEYS:
        match = _RUN.fullmatch(flat[key])
        if match and match["recipe"] in others:
            needs.append(f"{match['recipe']}_seed{seed}")
            settings.append(f"{key}={working_dir / needs[-1]}{match['file'] or ''}")
    return Job(f"{recipe.name}_seed{seed}", recipe.path, tuple(settings), working_dir, frozenset(needs))


def outcome(job: Job) -> dict[str, float]:
    """Metrics of a finished run after its last epoch, its number of epochs, and how fast it trained.

    Raises:
        DataError: its evaluation does not give the metrics.
    """
    records = job.records()
    metrics = records[-1].get("metrics", {})
    if missing := METRICS.keys() - metrics.keys():
        raise DataError(f"{job.run}: its evaluation gives no {' and no '.join(sorted(missing))}")
    rate = statistics.median(record["examples_per_second"] for record in records)
    return {**{name: metrics[name] for name in METRICS}, "epochs": len(records), "examples_per_second": rate}


def row_of(recipe: Recipe, results: dict[str, list[dict[str, float]]]) -> Row:
    """A row of the table."""
    runs = results[recipe.name]
    percents = {title: [100 * run[name] for run in runs] for name, title in METRICS.items()}
    gain = ""
    if recipe.parent:
        mean, spread = mean_and_spread(percents["mAP"])
        base, base_spread = mean_and_spread([100 * run["mAP"] for run in results[recipe.parent]])
        pooled = f" ± {math.sqrt((spread**2 + base_spread**2) / 2):.1f}" if len(runs) > 1 else ""
        gain = f"{mean - base:+.1f}{pooled}"
    rate = in_words(statistics.median(run["examples_per_second"] for run in runs))
    about = {"recipe": recipe.name, "extends": recipe.parent, "changes": recipe.changes}
    return {**about, **percents, "gain in mAP": gain, "examples/s": rate, "epochs": str(runs[0]["epochs"])}


if __name__ == "__main__":
    log_to_screen()
    # A shell that starts a command in the background lets it ignore Ctrl-C; `kill` stops the trainings too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
