"""What a network about to be deployed reaches on its test set, and which distances to decide by."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from config.params import Params
from data.features import TestFeatures
from data.samples import DISTRACTOR_PID, JUNK_PID, Dataset, Sample, sorted_pids
from deploy.card import Threshold
from evaluate.core.context import EvalContext
from evaluate.core.extract import extract
from evaluate.core.retrieval.retrieve import RetrievalOptions, retrieve
from evaluate.core.verification.roc import FALSE_ACCEPT_RATES, retrieval_roc
from utils.errors import DataError


class Measured(NamedTuple):
    """Retrieval metrics, fractions; thresholds by falling false accept rate; images they come from."""

    metrics: dict[str, float]
    thresholds: tuple[Threshold, ...]
    num_images: int


def measure(params: Params, dataset: Dataset, network: nn.Module) -> Measured:
    """Rank a test set by cosine distance, as Market-1501 does it; where cameras say nothing, without their rule.

    Args:
        params: size and normalisation of the images, and the batch size.
        dataset: of which query and gallery count.
        network: as evaluation plug-ins get it.

    Raises:
        DataError: there is no query with a true match.
    """
    if not dataset.query or not dataset.gallery:
        raise DataError(f"{params.batches_dir}: no query or no gallery images to measure on")
    config = EvalContext(params, network)
    features = TestFeatures(extract(config, dataset.query, "query"), extract(config, dataset.gallery, "gallery"))
    options = RetrievalOptions()
    retrieval = retrieve(features, options, torch.device("cpu"))
    roc = retrieval_roc(retrieval.distances, retrieval.truth, options.memory).roc
    thresholds = [
        Threshold(far=far, tar=roc.tar_at(far), distance=distance)
        for far in FALSE_ACCEPT_RATES
        if (distance := roc.threshold_at(far)) is not None
    ]
    result = retrieval.result
    metrics = {"rank1": result.cmc(1), "rank5": result.cmc(5), "mAP": result.mean_ap, "mINP": result.mean_inp}
    return Measured(metrics, tuple(thresholds), len(dataset.query) + len(dataset.gallery))


def thinned(dataset: Dataset, most: int) -> Dataset:
    """The test set with every n-th identity, the least n that leaves about `most` images; whole where it has no more.

    Images of nobody in particular, junk and distractors, are thinned alike, one by one.
    """
    number = len(dataset.query) + len(dataset.gallery)
    step = max(1, -(-number // most))
    nobody = (JUNK_PID, DISTRACTOR_PID)
    people = [pid for pid in sorted_pids([*dataset.query, *dataset.gallery]) if pid not in nobody]
    kept = set(people[::step])

    def thin(samples: Sequence[Sample]) -> list[Sample]:
        some = set([sample for sample in samples if sample.pid in nobody][::step])
        return [sample for sample in samples if sample.pid in kept or sample in some]

    return dataset._replace(query=thin(dataset.query), gallery=thin(dataset.gallery))
