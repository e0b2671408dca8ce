"""Person re-identification as Market-1501 measures it: rank-k (CMC), mAP and mINP of queries against a gallery."""

import logging
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from config.evaluation import EvaluationParams
from config.params import Params
from data.dataset import read_dataset
from data.images import decode
from data.samples import DISTRACTOR_PID, JUNK_PID, Dataset, Sample
from evaluate.core.distances import Metric
from evaluate.core.extract import Features, extract
from evaluate.core.pictures import CROP_HEIGHT, RankedImage, RankList, rank_list_picture, spread_by_ap
from evaluate.core.ranking import RankResult, rank, ranked_gallery
from utils.errors import DataError

logger = logging.getLogger(__name__)


class Options(EvaluationParams):
    """The keys of evaluation_params when its type is "market_evaluate"."""

    metric: Metric = "cosine"
    """Distance between embeddings."""
    ranks: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 5, 10), min_length=1)
    """The k of each rank-k reported."""
    rank_list_queries: int = Field(default=5, ge=0)
    """Queries in the picture of rank lists, from the worst to the best; 0 = no picture."""
    rank_list_length: int = Field(default=10, ge=1)
    """Gallery images in each rank list."""


def run_eval(config: Params) -> dict[str, Any]:
    """Rank the gallery for every query of the data set in `config.batches_dir`.

    Returns:
        rank1, ... (for each of `ranks`), mAP, mAP_trapezoid, mINP as fractions, counts (num_...), the picture
        "rank_list" unless turned off, and "score": "mAP".

    Raises:
        DataError: no query or gallery images, or no query with a true match in the gallery.
    """
    options = config.evaluation_params
    assert isinstance(options, Options)
    dataset = read_dataset(config)
    check_data(dataset, config)
    query = extract(config, dataset.query, "query")
    gallery = extract(config, dataset.gallery, "gallery")
    result = rank(*_rank_arguments(query, gallery), metric=options.metric)
    report: dict[str, Any] = report_of(result, options.ranks)
    report["num_gallery"] = len(gallery.samples)
    if options.rank_list_queries:
        lists = rank_lists(query, gallery, result, options, width=round(CROP_HEIGHT * config.img_w / config.img_h))
        report["rank_list"] = rank_list_picture(lists)
    return report


def check_data(dataset: Dataset, config: Params) -> None:
    """Find out before any image is embedded whether there is anything to measure; warn of queries that cannot be.

    Raises:
        DataError: there is not; the message names the folder.
    """
    query, gallery, folder = dataset.query, dataset.gallery, config.batches_dir
    for name, split in (("query", query), ("gallery", gallery)):
        if not split:
            raise DataError(
                f"{folder}: no {name} images to evaluate on; add them, or set evaluation_params.type to null"
            )
    cameras_of: dict[int, set[int]] = {}
    for sample in gallery:
        if sample.pid not in (JUNK_PID, DISTRACTOR_PID):
            cameras_of.setdefault(sample.pid, set()).add(sample.camid)
    absent = sum(sample.pid not in cameras_of for sample in query)
    without_match = sum(not cameras_of.get(sample.pid, set()) - {sample.camid} for sample in query)
    if absent == len(query):
        raise DataError(f"{folder}: the gallery shows none of the persons of the {len(query)} query images")
    if without_match == len(query):
        raise DataError(
            f"{folder}: no query image has a true match; the gallery shows their persons from the query's own camera "
            f"only, and such images do not count"
        )
    if without_match:
        logger.warning(
            "%s: %d of %d query images have no true match in the gallery and are left out of the metrics",
            folder,
            without_match,
            len(query),
        )


def report_of(result: RankResult, ranks: Sequence[int]) -> dict[str, Any]:
    """The metrics and counts under the names that files use."""
    return {
        **{f"rank{k}": result.cmc(k) for k in ranks},
        "mAP": result.mean_ap,
        "mAP_trapezoid": result.mean_ap_trapezoid,
        "mINP": result.mean_inp,
        "score": "mAP",
        "num_query": result.num_query,
        "num_query_without_match": result.num_query_without_match,
    }


def rank_lists(query: Features, gallery: Features, result: RankResult, options: Options, width: int) -> list[RankList]:
    """The rank lists of a few queries with their images, `width` pixels wide; ignored gallery images are left out."""
    chosen = torch.from_numpy(spread_by_ap(result.ap.numpy(), options.rank_list_queries))
    rows = result.queries[chosen]
    few = Features(query.features[rows], query.pids[rows], query.camids[rows], [query.samples[row] for row in rows])
    ranked = ranked_gallery(*_rank_arguments(few, gallery), metric=options.metric)

    def read(sample: Sample) -> np.ndarray:
        return decode(sample.path, CROP_HEIGHT, width)

    lists = []
    for row, sample in enumerate(few.samples):
        seen = (~ranked.ignored[row]).nonzero().flatten()[: options.rank_list_length]
        found = [
            RankedImage(
                read(gallery.samples[int(ranked.order[row, place])]),
                float(ranked.distance[row, place]),
                bool(ranked.match[row, place]),
            )
            for place in seen.tolist()
        ]
        lists.append(RankList(read(sample), float(result.ap[chosen[row]]), found))
    return lists


def _rank_arguments(query: Features, gallery: Features) -> tuple[torch.Tensor, ...]:
    return query.features, gallery.features, query.pids, query.camids, gallery.pids, gallery.camids
