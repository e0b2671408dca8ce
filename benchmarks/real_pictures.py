"""Train the recipes of recipes/real_pictures on a data set, and evaluate each on another data set, too.

    python -m benchmarks.real_pictures datasets/Market-1501 --weights resnet_18=resnet18.pth \
        timm:mobilenetv2_100=mobilenetv2.pth --jobs 2 --out benchmarks/results/real_pictures

Every group of recipes is a folder and becomes a table; the arguments may name some of them only. Every training is a
run of train.py. Finished runs are not repeated, so the same command resumes an interrupted one. Writes OUT.md and
OUT.json, and OUT_methods.png. Metrics are those after the last epoch: choosing the best epoch would be choosing on the
test set.
"""

import argparse
import json
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.ablation import Recipe, flattened, outcome, plan, read_recipes, row_of
from benchmarks.chart import draw_chart
from benchmarks.report import Report, Row
from benchmarks.trainings import ROOT, Job, resolved, run_process, train_all
from evaluate.core.load_model import load_trained_network
from utils.checkpoint import MODEL_BEST
from utils.cli import exit_code_of
from utils.errors import DataError
from utils.logs import log_to_screen

RECIPES = ROOT / "recipes" / "real_pictures"


class Group(NamedTuple):
    """A folder of recipes that are compared."""

    title: str
    seeds: tuple[int, ...]
    """Those of each recipe, unless the command line says otherwise."""
    more_seeds: tuple[int, ...] = ()
    """Where an mAP is within CLOSE of the extended recipe's, both have these seeds as well."""


CLOSE = 0.02

GROUPS = {
    "methods": Group("What each method changes", (0,), (1,)),
    "recipes": Group("Whole recipes", (0, 1, 2)),
    "mobile": Group("Mobile networks", (0,)),
    "heads": Group("Heads of several branches", (0, 1)),
    "unsupervised": Group("Without labels", (0,)),
    "unsupervised_parts": Group("Without labels, small: each part left out", (0,)),
}


def main(argv: Sequence[str]) -> None:
    """Run what is missing, then write the results."""
    args = parse_arguments(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    report = Report(f"Real pictures; {args.jobs} runs at once", "cuda" if torch.cuda.is_available() else "cpu")
    for name in args.groups:
        group = GROUPS[name] if not args.seeds else Group(GROUPS[name].title, tuple(args.seeds))
        seeds = ", ".join(map(str, group.seeds))
        if group.more_seeds:
            seeds += f", and {', '.join(map(str, group.more_seeds))} where a gain is below {100 * CLOSE:g}"
        report.tables[f"{group.title}; seeds {seeds}"] = measure(name, group, args)
    report.notes.append(
        "Percent after the last epoch, mean ± standard deviation over the seeds. Gain: difference of the mean mAP to "
        "the extended row's, ± the standard deviation of one run, pooled over both rows. Elsewhere: the same models on "
        f"the test images of {args.other}, which no training saw. Parameters and megabytes (fp32): without classifiers."
    )
    report.save(args.out)


def measure(name: str, group: Group, args: argparse.Namespace) -> list[Row]:
    """Train a group's recipes: the rows of its table; draws the chart of the methods."""
    paths = sorted((args.recipes / name).glob("*.json"))
    if not paths:
        raise DataError(f"{args.recipes / name}: no recipes")
    recipes = read_recipes(paths, [f"batches_dir={args.data}"])
    results = outcomes(recipes, group.seeds, recipes, args)
    for close, runs in outcomes(close_ones(recipes, results), group.more_seeds, recipes, args).items():
        results[close] += runs
    if name == "methods":
        mean_aps = {recipe: [100 * run["mAP"] for run in runs] for recipe, runs in results.items()}
        picture = args.out.with_name(f"{args.out.name}_methods.png")
        draw_chart(picture, group.title, mean_aps, {recipe.name: recipe.parent for recipe in recipes})
    return [row(recipe, results, plan_one(recipe, group.seeds[0], recipes, args)) for recipe in recipes]


def outcomes(
    chosen: Sequence[Recipe], seeds: Sequence[int], recipes: Sequence[Recipe], args: argparse.Namespace
) -> dict[str, list[dict[str, float]]]:
    """Train some of the recipes with each seed: their metrics here and elsewhere, by recipe."""
    jobs = {recipe.name: [plan_one(recipe, seed, recipes, args) for seed in seeds] for recipe in chosen}
    train_all([job for of_recipe in jobs.values() for job in of_recipe], args.jobs)
    return {name: [{**outcome(job), **transfer(job, args.other)} for job in each] for name, each in jobs.items()}


def close_ones(recipes: Sequence[Recipe], results: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Recipe]:
    """The recipes whose mAP differs by less than CLOSE from that of the extended one, and those extended ones."""
    mean_ap = {name: statistics.mean(run["mAP"] for run in runs) for name, runs in results.items()}
    pairs = [(recipe.name, recipe.parent) for recipe in recipes if recipe.parent]
    close = {name for pair in pairs if abs(mean_ap[pair[0]] - mean_ap[pair[1]]) < CLOSE for name in pair}
    return [recipe for recipe in recipes if recipe.name in close]


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set, in the layout of Market-1501")
    parser.add_argument("groups", nargs="*", default=list(GROUPS), help=f"{', '.join(GROUPS)}; default: all")
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="MODEL=FILE", help="where the backbones start from, by model"
    )
    parser.add_argument("--other", default="synthetic", help="another data set, on which the models are evaluated")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="default: those of each group in GROUPS")
    parser.add_argument("--recipes", type=Path, default=RECIPES, help="folder of the groups")
    parser.add_argument("--working_dir", type=Path, default=Path("runs/real_pictures"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the CPU's cores")
    parser.add_argument("--out", type=Path, required=True, help="the results, without suffix")
    args = parser.parse_args(argv)
    args.seeds = list(dict.fromkeys(args.seeds))
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: at least 1")
    if unknown := [name for name in args.groups if name not in GROUPS]:
        parser.error(f"{', '.join(unknown)}: no group; there are {', '.join(GROUPS)}")
    if wrong := [text for text in args.weights if not all(text.partition("="))]:
        parser.error(f"--weights {wrong[0]}: expected MODEL=FILE")
    args.weights = dict(text.split("=", 1) for text in args.weights)
    return args


def plan_one(recipe: Recipe, seed: int, recipes: Sequence[Recipe], args: argparse.Namespace) -> Job:
    """The training of a recipe, from the weights that are given for its backbone, else as the recipe says."""
    settings = [f"batches_dir={args.data}"]
    model = flattened(resolved(recipe.path, settings))["model_params.model"]
    if model in args.weights:
        settings += ["imagenet_pretrain=false", f"pretrain_snapshot={args.weights[model]}"]
    return plan(recipe, seed, recipes, settings, args.working_dir)


def transfer(job: Job, other: str) -> dict[str, float]:
    """Metrics of a finished run's model on another data set; measured once."""
    path = job.run / f"on_{Path(other).name}.json"
    if not path.exists():
        settings = [f"batches_dir={other}", f"result_log_file={path}"]
        run_process(["evaluator.py", str(job.run), "--set", *settings], "cuda" if torch.cuda.is_available() else "cpu")
    metrics: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    return {"rank1 elsewhere": metrics["rank1"], "mAP elsewhere": metrics["mAP"]}


def row(recipe: Recipe, results: dict[str, list[dict[str, float]]], job: Job) -> Row:
    """A row of the table: metrics here and elsewhere, and the size of the network."""
    whole = row_of(recipe, results)
    for name in ("rank1 elsewhere", "mAP elsewhere"):
        whole[name] = [100 * run[name] for run in results[recipe.name]]
    if (agreement := job.records()[-1]["measures"].get("adjusted_rand_index")) is not None:
        whole["adjusted Rand index"] = agreement
    network = load_trained_network(job.run / MODEL_BEST).network
    classifiers = {id(parameter) for module in network.classifiers() for parameter in module.parameters()}
    count = sum(parameter.numel() for parameter in network.parameters() if id(parameter) not in classifiers)
    minutes = sum(record["seconds"] for record in job.records()) / 60
    return {**whole, "minutes": minutes, "million parameters": count / 1e6, "MB": 4 * count / 1e6}


if __name__ == "__main__":
    log_to_screen()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
