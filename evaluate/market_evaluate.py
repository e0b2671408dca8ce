"""Person re-identification as Market-1501 measures it: rank-k (CMC), mAP and mINP of queries against a gallery."""

import logging
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field

from config.params import Params
from data.dataset import read_dataset
from data.features import Features, TestFeatures
from data.samples import SOURCE_STRIDE, Dataset, Sample
from evaluate.core.context import EvalContext
from evaluate.core.extract import extract
from evaluate.core.pictures import CROP_HEIGHT, rank_list_picture
from evaluate.core.report import Report
from evaluate.core.retrieval.protocols import GroundTruth, check_matches
from evaluate.core.retrieval.random_gallery import mean_and_deviation, random_gallery_trials
from evaluate.core.retrieval.rank_lists import rank_lists
from evaluate.core.retrieval.retrieve import Retrieval, RetrievalOptions, retrieve
from evaluate.core.verification.roc import FALSE_ACCEPT_RATES, retrieval_roc
from utils.device import choose_device
from utils.distributed import broadcast_from_rank0, fail_together, this_process
from utils.errors import DataError, ParamsError
from utils.memory import explain_oom

logger = logging.getLogger(__name__)

ADVICE = "lower evaluation_params.memory_mb"


class Options(RetrievalOptions):
    """The keys of evaluation_params when its type is "market_evaluate"."""

    ranks: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 5, 10), min_length=1)
    """The k of each rank-k reported."""
    verification: bool = False
    """Also report AUC, EER and the true accept rate at false accept rates of 0.1 to 0.0001, over all pairs."""
    rank_list_queries: int = Field(default=5, ge=0)
    """Queries in the picture of rank lists, from the worst to the best; 0 = no picture."""
    rank_list_length: int = Field(default=10, ge=1)
    """Gallery images in each rank list."""


def run_eval(config: EvalContext) -> dict[str, Any]:
    """Rank the gallery for every query, of the data set in `config.batches_dir` or of the features that config carries.

    With several processes rank 0 ranks; the others get its metrics and counts, without picture and report.

    Returns:
        rank1, ... (for each of `ranks`), mAP, mAP_trapezoid, mINP as fractions, counts (num_...), the picture
        "rank_list" unless turned off, and "score": "mAP". With the protocol "random_gallery" means over the repeats,
        and the standard deviations as rank1_std, ...

    Raises:
        DataError: no query or gallery images, or no query with a true match in the gallery.
    """
    return measure(config, None if config.features else read_dataset(config.params))


def measure(config: EvalContext, dataset: Dataset | None) -> dict[str, Any]:
    """`run_eval` on a data set; None = on the features that config carries."""
    options = options_of(config.params)
    if dataset is not None:
        features = extract_test(config, dataset)
    elif config.features is not None:
        features = config.features
        _check(options, features, config.data_name)
    else:
        raise ValueError("measure: expected a data set, or a config with features")
    figures: dict[str, float] = {}
    pictures: dict[str, Any] = {}
    # On rank 0 alone, as all have the same embeddings.
    with fail_together():
        if this_process().is_rank_zero:
            with explain_oom(_doing("ranking", features), ADVICE):
                figures, pictures = _figures_and_pictures(features, options, config)
    return {**broadcast_from_rank0(figures), "score": "mAP", "features": features, **pictures}


def _figures_and_pictures(
    features: TestFeatures, options: Options, config: EvalContext
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and counts, and what only the process that ranks has: the picture of rank lists and the report."""
    means, retrieval = _ranked(features, options, choose_device(config.parallels))
    counts = {
        "num_query": retrieval.result.num_query,
        "num_query_without_match": retrieval.result.num_query_without_match,
        "num_gallery": retrieval.truth.shape[1],
    }
    pictures: dict[str, Any] = {}
    if options.rank_list_queries and retrieval.query.samples and retrieval.gallery.samples:
        width = round(CROP_HEIGHT * config.img_w / config.img_h)
        try:
            lists = rank_lists(retrieval, options.rank_list_queries, options.rank_list_length, width)
            pictures["rank_list"] = rank_list_picture(lists)
        except DataError as error:
            # Features can be evaluated without their image files.
            logger.warning("no picture of rank lists: %s", error)

    def report() -> Report:
        # Imports matplotlib, which only a report needs.
        from evaluate.core.report.retrieval import retrieval_report

        with explain_oom(_doing("reporting", features), ADVICE):
            return retrieval_report(retrieval, means, counts, config, options.memory)

    return {**means, **counts}, pictures | {"report": report}


def _doing(work: str, features: TestFeatures) -> str:
    query, gallery = (len(part.pids) for part in features)
    return f"{work} {gallery} gallery images for {query} queries"


def _ranked(features: TestFeatures, options: Options, device: torch.device) -> tuple[dict[str, float], Retrieval]:
    """The metrics and the retrieval; of several random galleries the means and the first retrieval."""
    if options.protocol != "random_gallery":
        retrieval = retrieve(features, options, device)
        return _metrics(retrieval, options), retrieval
    metrics, first = [], None
    for trial in random_gallery_trials(_pool(features), options.gallery_repeats, options.gallery_seed):
        retrieval = retrieve(trial, options, device)
        metrics.append(_metrics(retrieval, options))
        first = first or retrieval
    assert first is not None
    return mean_and_deviation(metrics), first


def options_of(config: Params) -> Options:
    """The evaluation's options, of this plug-in or of one built on it."""
    assert isinstance(config.evaluation_params, Options)
    return config.evaluation_params


def extract_test(config: EvalContext, dataset: Dataset) -> TestFeatures:
    """Embeddings of query and gallery."""
    check_data(dataset, config.params)
    flip = options_of(config.params).flip
    parts = [
        extract(config, split, name, flip=flip) if split else None
        for name, split in (("query", dataset.query), ("gallery", dataset.gallery))
    ]
    # Random galleries are drawn from both; VehicleID has all its images in one of them.
    some = next(part for part in parts if part is not None)
    return TestFeatures(*(part or some.at(torch.empty(0, dtype=torch.int64)) for part in parts))


def check_data(dataset: Dataset, config: Params) -> None:
    """Check before any image is embedded that there is something to evaluate; warn about queries without a match.

    Raises:
        DataError: there is not; the message names the folder.
        ParamsError: options that do not go together.
    """
    _check(options_of(config), TestFeatures(_labels(dataset.query), _labels(dataset.gallery)), config.data_name)


def _check(options: Options, features: TestFeatures, where: str) -> None:
    """As `check_data`; only the labels of the features are used."""
    query, gallery = features
    settings = options.k_reciprocal
    if options.re_ranking == "k_reciprocal" and settings.k2 > settings.k1 + 1:
        raise ParamsError(
            f"evaluation_params.k_reciprocal.k2: {settings.k2} is more than k1 + 1 = {settings.k1 + 1} neighbours"
        )
    unknown = sum(int((part.camids % SOURCE_STRIDE == 0).sum()) for part in features)
    if options.camera_normalisation and unknown:
        raise DataError(
            f"{where}: evaluation_params.camera_normalisation: {unknown} test images are of camera 0, which stands for "
            "an unknown one; set it to false"
        )
    if options.protocol == "random_gallery":
        # Raises if no gallery can be drawn.
        next(random_gallery_trials(_pool(features), repeats=1, seed=0))
        return
    for name, part in features._asdict().items():
        if not len(part.pids):
            raise DataError(
                f"{where}: no {name} images to evaluate on; add them, or train with evaluation_params.type null"
            )
    cross_camera = options.protocol == "cross_camera"
    truth = GroundTruth(query.pids, query.camids, gallery.pids, gallery.camids, cross_camera=cross_camera)
    check_matches(where, truth, query.pids, gallery.pids)


def _metrics(retrieval: Retrieval, options: Options) -> dict[str, float]:
    """The metrics under the names that files use."""
    result = retrieval.result
    metrics = {
        **{f"rank{k}": result.cmc(k) for k in options.ranks},
        "mAP": result.mean_ap,
        "mAP_trapezoid": result.mean_ap_trapezoid,
        "mINP": result.mean_inp,
    }
    if options.verification:
        roc = retrieval_roc(retrieval.distances, retrieval.truth, options.memory).roc
        metrics |= {"auc": roc.auc, "eer": roc.eer}
        metrics |= {f"tar_at_far_{far:g}": roc.tar_at(far) for far in FALSE_ACCEPT_RATES}
    return metrics


def _labels(samples: Sequence[Sample]) -> Features:
    """Features without embeddings: only the labels."""
    pids = torch.tensor([sample.pid for sample in samples], dtype=torch.int64)
    camids = torch.tensor([sample.camid for sample in samples], dtype=torch.int64)
    return Features(torch.empty(len(samples), 0), pids, camids, list(samples))


def _pool(features: TestFeatures) -> Features:
    """Query and gallery as one."""
    query, gallery = features
    pids = torch.cat([query.pids, gallery.pids])
    samples = query.samples + gallery.samples
    return Features(
        torch.cat([query.features, gallery.features]),
        pids,
        torch.cat([query.camids, gallery.camids]),
        samples if len(samples) == len(pids) else [],
        gallery.branch_dims,
    )
