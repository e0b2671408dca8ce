"""Evaluate a trained or exported model, or features saved earlier: `python evaluator.py eval_params.json`."""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

from config.eval_params import EvalParams
from config.load import load_eval_params
from data.features import write_features
from engine.launch import launch, needs_launch, process_group
from evaluate.core.context import EvalContext
from evaluate.core.offline import (
    Outcome,
    Subject,
    load_subject,
    offered,
    plugin_in,
    trained_plugin,
    write_pictures,
    write_result,
)
from evaluate.core.plugins import evaluate, plugin_options
from evaluate.core.report.files import write_images
from evaluate.core.report.page import write_report
from evaluate.core.table import comparison_table, metrics_table
from utils.cli import exit_code_of
from utils.distributed import fail_together, this_process
from utils.errors import ParamsError
from utils.files import expand_user
from utils.hub import PREFIX as HUB
from utils.hub import fetch
from utils.logs import log_to_screen

EXPORTED = (".onnx", ".xml")

logger = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
    """Evaluate what the command line names; print the metrics and write the requested files."""
    args = parse_arguments(argv)
    log_to_screen()
    options = read_options(args)
    if needs_launch(options.parallels):
        raise SystemExit(launch(len(options.parallels)))
    with process_group(options.parallels):
        # Before the evaluation: whether its results can be written.
        with fail_together():
            make_folders(options)
        with fail_together():
            subject = read_subject(options)
        outcomes = [measure(name, context, options) for name, context in subject.evaluations.items()]
        # All ranks have the same metrics; rank 0 reports them.
        if this_process().is_rank_zero:
            write_outcomes(options, subject, outcomes)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = argparse.ArgumentParser(prog="evaluator.py", description=__doc__, allow_abbrev=False)
    what = 'a params file such as eval_params.json, or a model (.pth, .onnx, .xml, hub folder, "hf://...") or features'
    parser.add_argument("path", help=what)
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override: model_path=runs/NAME"
    )
    return parser.parse_args(argv)


def read_options(args: argparse.Namespace) -> EvalParams:
    """The params file, or the defaults for a model or features named in its place."""
    path, overrides = Path(args.path), args.set
    if path.suffix.lower() in (".pth", *EXPORTED, ".npz", ".safetensors") or path.is_dir() or args.path.startswith(HUB):
        path, overrides = None, [f"model_path={json.dumps(args.path)}", *overrides]
    options, notes = load_eval_params(path, overrides, plugin_options=plugin_options, plugin_of=plugin_of)
    for note in notes:
        logger.info("%s", note)
    return options


def plugin_of(model_path: str) -> str | None:
    """The evaluation plug-in that the model or the features were made for."""
    path = expand_user(str(fetch(model_path)) if model_path.startswith(HUB) else model_path)
    if path.suffix.lower() not in EXPORTED:
        return trained_plugin(path)
    from deploy.networks import open_exported

    return plugin_in(open_exported(path).card.params)


def read_subject(options: EvalParams) -> Subject:
    """What `model_path` names."""
    if options.model_path.startswith(HUB):
        options = options.model_copy(update={"model_path": str(fetch(options.model_path))})
    path = expand_user(options.model_path)
    if path.suffix.lower() not in EXPORTED:
        return load_subject(options)
    # Only here, as onnxruntime takes half a second to import.
    from deploy.evaluated import load_exported

    return load_exported(path, options)


def make_folders(options: EvalParams) -> None:
    """Create the folders of all requested files."""
    for key in ("result_log_file", "report_path", "features_path"):
        if getattr(options, key):
            path = expand_user(getattr(options, key))
            if path.is_dir():
                raise ParamsError(f"{key}: {path} is a folder; name a file")
            path.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(path.parent, os.W_OK):
                raise ParamsError(f"{key}: {path.parent} may not be written to")
    if options.pictures_dir:
        expand_user(options.pictures_dir).mkdir(parents=True, exist_ok=True)


def measure(name: str, context: EvalContext, options: EvalParams) -> Outcome:
    """Run one evaluation and print its metrics; features and report are kept only if requested."""
    logger.info("data set %s", name)
    start = time.monotonic()
    evaluation = evaluate(context)
    elapsed = time.monotonic() - start
    if this_process().is_rank_zero:
        print(metrics_table(evaluation.metrics, decimals=4), flush=True)
    report = evaluation.report() if options.report_path and evaluation.report else None
    features = evaluation.features if options.features_path else None
    return Outcome(context.params, evaluation._replace(features=features, report=report and (lambda: report)), elapsed)


def write_outcomes(options: EvalParams, subject: Subject, outcomes: list[Outcome]) -> None:
    """Print a table of several data sets, and write the requested files."""
    if len(outcomes) > 1:
        rows = zip(subject.evaluations, outcomes, strict=True)
        print(comparison_table({name: outcome.evaluation.metrics for name, outcome in rows}))

    if options.result_log_file:
        write_result(expand_user(options.result_log_file), subject, outcomes)
        logger.info("metrics: %s", options.result_log_file)
    if options.pictures_dir:
        write_pictures(expand_user(options.pictures_dir), outcomes)
        logger.info("pictures: %s", options.pictures_dir)
    if options.features_path:
        features = offered(outcomes[0].evaluation.features, "features_path", outcomes[0])
        write_features(expand_user(options.features_path), features)
        logger.info("features: %s", options.features_path)
    if options.report_path:
        reports = [offered(each.evaluation.report, "report_path", each)() for each in outcomes]
        write_report(expand_user(options.report_path), reports)
        logger.info("report: %s", options.report_path)
        if options.report_images:
            logger.info("images of the report: %s", write_images(expand_user(options.report_path), reports))


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
