"""Verification of image pairs as LFW measures it: are the two images of one person?"""

import logging
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from config.evaluation import EvaluationParams
from config.params import Params
from data.dataset import read_dataset
from data.samples import Dataset
from evaluate.core.context import EvalContext, title_of
from evaluate.core.extract import extract
from evaluate.core.report import Report
from evaluate.core.retrieval.distances import Metric
from evaluate.core.verification.drawn_pairs import draw_pairs
from evaluate.core.verification.folds import best_threshold, fold_accuracies
from evaluate.core.verification.pairs import Pairs, pair_distances, read_pairs, without_images
from evaluate.core.verification.roc import Roc, roc
from utils.errors import DataError, ParamsError
from utils.files import expand_user

logger = logging.getLogger(__name__)


class Options(EvaluationParams):
    """The keys of evaluation_params when its type is "lfw_evaluate"."""

    pairs_file: str = ""
    """List of pairs in the format of LFW's pairs.txt; "" = draw them from query and gallery of the data set."""
    pairs_dir: str = ""
    """Folder or .lmdb file of the images that pairs_file names, NAME/NAME_0001.jpg; "" = batches_dir."""
    image_suffix: str = ".jpg"
    """Ending of the images that pairs_file names."""
    num_pairs: int = Field(default=6000, ge=2, multiple_of=2)
    """Pairs to draw, half of them genuine; without pairs_file only."""
    num_folds: int = Field(default=10, ge=1)
    """Folds to draw them in; without pairs_file only, which has its own."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the draw."""
    metric: Metric = "cosine"
    """Distance between embeddings."""
    flip: bool = False
    """Embed each image and its mirror image, and add the two."""
    far: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], ...] = (1e-1, 1e-2, 1e-3, 1e-4)
    """False accept rates at which the true accept rate is reported."""

    def data_set(self, batches_dir: str) -> str:
        """Name of what is measured."""
        return self.pairs_file or batches_dir

    @field_validator("far")
    @classmethod
    def _distinct(cls, far: tuple[float, ...]) -> tuple[float, ...]:
        """Metrics are named by the rate, so that two equal ones would overwrite each other."""
        names = [f"{rate:g}" for rate in far]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"more than one rate is {' or '.join(twice)} in six digits; leave all but one out")
        return far


def run_eval(config: EvalContext) -> dict[str, Any]:
    """Verify the pairs of `pairs_file`, or pairs drawn from the data set in `config.batches_dir`.

    Returns:
        accuracy: mean over the folds of the accuracy on a fold with the threshold that is best on all others; of a
            single fold, the accuracy on itself with its own best threshold.
        accuracy_std: standard deviation over the folds (dividing by their number less 1); not for a single fold.
        auc, eer, tar_at_far_0.1, ...: of all pairs, without folds; the true accept rate at each of `far`.
        threshold: of the highest accuracy on all pairs, the one to deploy: accept what is at most as far apart.
        threshold_at_far_0.1, ...: those of the true accept rates; not where none accepts a single genuine pair.
        num_pairs, num_genuine, num_folds, "report", and "score": "accuracy".

    Raises:
        DataError: the pairs file has mistakes, images are missing, or the data set gives no pairs.
        ParamsError: there is no network, only features from a file, or too few pairs are to be drawn.
    """
    params, options = config.params, _options_of(config.params)
    if not config.has_net:
        raise ParamsError(
            "evaluation_params.type: lfw_evaluate embeds the images of its pairs, for which it needs a network; a "
            "feature file holds no pairs; evaluate it with market_evaluate, or name a .pth file as model_path"
        )
    pairs = _pairs(params, None if options.pairs_file else read_dataset(params))
    found = extract(config, pairs.samples, "pairs", flip=options.flip)
    pairs = _readable(pairs, without_images(pairs, found.samples))
    distances = pair_distances(found.features, pairs.first, pairs.second, options.metric)
    metrics = _metrics(distances, pairs, options)
    counts = {
        "num_pairs": len(distances),
        "num_genuine": int(pairs.is_genuine.sum()),
        "num_folds": pairs.num_folds,
    }

    folder = (options.pairs_file and options.pairs_dir) or params.data_name
    title = title_of(folder) + (f", {Path(options.pairs_file).name}" if options.pairs_file else "")

    def report() -> Report:
        # Imports matplotlib, which only a report needs.
        from evaluate.core.report.verification import verification_report

        return verification_report(found, pairs, distances, metrics, title, _facts(config, options))

    return {**metrics, **counts, "score": "accuracy", "report": report}


def check_data(dataset: Dataset, config: Params) -> None:
    """Check before any image is embedded that the pairs and their images exist; raises as `run_eval`."""
    _pairs(config, dataset)


def _options_of(config: Params) -> Options:
    assert isinstance(config.evaluation_params, Options)
    return config.evaluation_params


def _pairs(config: Params, dataset: Dataset | None) -> Pairs:
    """The pairs of the file, or, where none is named, drawn from the data set."""
    options = _options_of(config)
    if options.pairs_file:
        folder = expand_user(options.pairs_dir or config.data_name)
        return read_pairs(expand_user(options.pairs_file), folder, options.image_suffix)
    assert dataset is not None
    samples = [*dataset.query, *dataset.gallery]
    if not samples:
        raise DataError(
            f"{config.data_name}: no query or gallery images to draw pairs from; add them, name a list of pairs as "
            f"evaluation_params.pairs_file, or set evaluation_params.type to null"
        )
    return draw_pairs(samples, options.num_pairs, options.num_folds, options.seed, config.data_name)


def _readable(pairs: Pairs, left: Pairs) -> Pairs:
    """Check that every fold of the pairs `left` still has both kinds, and return them."""
    if lost := len(pairs.first) - len(left.first):
        logger.warning("pairs: %d of %d left out, as their images are unreadable", lost, len(pairs.first))
    for fold in range(pairs.num_folds):
        kinds = left.is_genuine[left.folds == fold]
        if not kinds.any() or kinds.all():
            raise DataError(f"pairs: fold {fold + 1} has no pair of each kind whose images are readable")
    return left


def _metrics(distances: Tensor, pairs: Pairs, options: Options) -> dict[str, float]:
    """The metrics under the names that files use."""
    genuine, impostor = distances[pairs.is_genuine], distances[~pairs.is_genuine]
    accuracies = torch.tensor(fold_accuracies(distances, pairs.is_genuine, pairs.folds), dtype=torch.float64)
    curve = roc(genuine, impostor)
    _warn_of_unresolved(curve, options)
    spread = {"accuracy_std": float(accuracies.std())} if len(accuracies) > 1 else {}
    thresholds = {f"threshold_at_far_{far:g}": curve.threshold_at(far) for far in options.far}
    return {
        "accuracy": float(accuracies.mean()),
        **spread,
        "auc": curve.auc,
        "eer": curve.eer,
        **{f"tar_at_far_{far:g}": curve.tar_at(far) for far in options.far},
        "threshold": best_threshold(genuine, impostor),
        **{name: threshold for name, threshold in thresholds.items() if threshold is not None},
    }


def _warn_of_unresolved(curve: Roc, options: Options) -> None:
    """Warn about false accept rates below one impostor."""
    too_small = [far for far in options.far if 0 < far < 1 / curve.num_impostor]
    if too_small:
        logger.warning(
            "pairs: %d impostors are too few for a false accept rate of %s: the true accept rate given for it is that "
            "of accepting no impostor",
            curve.num_impostor,
            " or ".join(f"{far:g}" for far in too_small),
        )


def _facts(config: EvalContext, options: Options) -> list[tuple[str, str]]:
    """What was measured and how, in words."""
    source = options.pairs_file or f"drawn from {config.data_name} with seed {options.seed}"
    return [
        ("Pairs", source),
        ("Model", config.model),
        ("Distance", options.metric),
        ("Mirror images", "added" if options.flip else "not used"),
    ]
