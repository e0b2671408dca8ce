"""Evaluate a trained model: `python evaluator.py eval_params.json`."""

import argparse
import logging
import sys
import time
from pathlib import Path

from config.load import load_eval_params
from evaluate.core.offline import load_trained, write_pictures, write_result
from evaluate.core.plugins import evaluate, plugin_options
from evaluate.core.table import metrics_table
from utils.cli import exit_code_of
from utils.logs import log_to_screen

logger = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
    """Command line -> EvalParams -> the plug-in's metrics, on the screen and in the files asked for."""
    args = parse_arguments(argv)
    log_to_screen()
    options, notes = load_eval_params(args.config_path, args.set, plugin_options=plugin_options)
    for note in notes:
        logger.info("%s", note)
    # Found out before the evaluation, not after it, whether its results can be written.
    result_log_file, pictures_dir = (
        Path(path).expanduser() for path in (options.result_log_file, options.pictures_dir)
    )
    result_log_file.parent.mkdir(parents=True, exist_ok=True)
    pictures_dir.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    params = load_trained(options)
    evaluation = evaluate(params)
    print(metrics_table(evaluation.metrics, decimals=4))
    if options.result_log_file:
        write_result(result_log_file, params, evaluation, time.monotonic() - start)
        logger.info("metrics: %s", options.result_log_file)
    if options.pictures_dir:
        write_pictures(pictures_dir, evaluation.pictures)
        logger.info("pictures: %s", options.pictures_dir)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = argparse.ArgumentParser(prog="evaluator.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("config_path", type=Path, help="such as eval_params.json")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override: model_path=runs/NAME"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
