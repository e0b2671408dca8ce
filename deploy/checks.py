"""What an exported model is checked for: parity with the trained network, and the metrics it reaches."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from config.params import ExportParams, Params
from data.augmentation.normalisation import normalise
from data.dataset import read_dataset, without_bad_images
from data.features import Features, TestFeatures
from data.images import decode
from data.read_ahead import read_ahead
from data.samples import DISTRACTOR_PID, JUNK_PID, Dataset, Sample, sorted_pids
from data.sources import part
from deploy.card import Threshold
from deploy.graph import Exportable
from deploy.networks import Network, open_exported
from deploy.profiles.ours import Ours
from deploy.profiles.profile import bilinear
from evaluate.core.load_model import Trained
from evaluate.core.retrieval.retrieve import RetrievalOptions, retrieve
from evaluate.core.verification.roc import FALSE_ACCEPT_RATES, retrieval_roc
from models.network import Embedder
from utils.errors import DataError
from utils.logs import bars_hidden

LIMITS = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest difference of a value of an embedding of unit length. For 8 bits the metrics show the loss."""
RESIZED_LIMIT = 2e-2
"""The same between resizing in the model and by Pillow, which rounds to whole values after each direction."""
BATCH = 32
BATCHES = (1, 7)
"""Sizes of the first batches; the last one takes the rest."""

logger = logging.getLogger(__name__)


def check_parity(path: Path, trained: Trained, options: ExportParams, paths: Sequence[Path]) -> None:
    """Compare a model file with the network in torch on images, in batches of several sizes; logs the difference.

    Raises:
        DataError: they differ by more than the format allows, or the model returns NaN or infinity.
    """
    exported = open_exported(path)
    params = trained.params
    pixels = np.stack([exported.profile.read(image, exported.resize) for image in paths])
    batches = [batch for batch in np.split(pixels, np.cumsum(BATCHES)) if len(batch)]
    embeddings = np.concatenate([exported.embed(batch).embeddings for batch in batches])
    if pixels.shape[1:3] != params.eval_resize[:2]:
        pixels = np.stack([bilinear(image, *params.eval_resize[:2]) for image in pixels])
    expected = _embed_in_torch(trained, pixels)
    limit = LIMITS.get(options.precision, np.inf)
    _compare(embeddings, expected, limit, f"{len(paths)} images, {exported.runs_on} against torch", options)
    if options.resize and exported.profile.is_own:
        originals = [np.array(decode(image)) for image in paths]
        resized = np.concatenate([exported.embed(image[None]).embeddings for image in originals])
        _compare(resized, _resize_and_embed_in_torch(trained, originals), limit, "resized by the model", options)
        _compare(resized, expected, max(limit, RESIZED_LIMIT), "resized by the model against Pillow", options)


def _compare(embeddings: np.ndarray, expected: np.ndarray, limit: float, what: str, options: ExportParams) -> None:
    difference = float(np.abs(embeddings - expected).max())
    cosine = float((embeddings * expected).sum(axis=1).min())
    logger.info("%s: largest difference of embeddings %.2g, smallest cosine %.6f", what, difference, cosine)
    # Not "difference > limit", which is false for NaN.
    if not difference <= limit or not np.isfinite(embeddings).all():
        advice = '; "fp32" is exact' if options.precision != "fp32" else ""
        raise DataError(
            f"the exported model differs from the trained network ({what}): by {difference:.2g}, at most {limit:g} "
            f"is allowed in {options.precision}{advice}. Nothing was written"
        )


@torch.inference_mode()
def _embed_in_torch(trained: Trained, pixels: np.ndarray) -> np.ndarray:
    """Pixels (B, H, W, 3) in 0..255 -> embeddings (B, D) of unit length as in evaluation, by other code than that
    which is exported.
    """
    images = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2), trained.params.data_augmentation.normalisation)
    return torch.nn.functional.normalize(Embedder(trained.network).eval()(images)).numpy()


@torch.inference_mode()
def _resize_and_embed_in_torch(trained: Trained, images: Sequence[np.ndarray]) -> np.ndarray:
    """The same of images (H, W, 3) of any sizes."""
    params = trained.params
    normalisation = params.data_augmentation.normalisation
    module = Exportable(trained.network.eval(), normalisation, Ours(), params.eval_resize)
    return np.concatenate([module(torch.from_numpy(image)[None])[0].numpy() for image in images])


class Measured(NamedTuple):
    """Retrieval metrics of a network on a test set."""

    metrics: dict[str, float]
    """Fractions."""
    thresholds: tuple[Threshold, ...]
    """By falling false accept rate."""
    num_images: int
    skips_own_camera: bool
    """Whether images of a query's person from the query's own camera were left out."""


NOT_MEASURED = Measured({}, (), 0, False)


def measure_if_possible(params: Params, dataset: Dataset, network: Network) -> Measured:
    """`measure` on about export_params.measured_images of the test set; if that fails, `NOT_MEASURED` and a warning."""
    try:
        return measure(params, subset(dataset, params.export_params.measured_images), network)
    except DataError as error:
        logger.warning("not measured, and without thresholds: %s", error)
        return NOT_MEASURED


def read_measured(params: Params) -> Dataset:
    """The data set to calibrate and to measure on; of several test sets the first, as each has a gallery of its own."""
    dataset, path = read_dataset(params), params.test_sets[0]
    if len(params.data_sets) == 1:
        return dataset
    test = part(dataset, params.data_sets.index(path))
    logger.info("measured on %s; on another with --set test_dirs='[\"DIR\"]'", path)
    return dataset._replace(query=test.query, gallery=test.gallery)


def measure(params: Params, dataset: Dataset, network: Network) -> Measured:
    """Rank a test set by cosine distance, with the camera rule of Market-1501 if the run's evaluation has it.

    The network is used as deployed: images are resized as by its consumer, and cameras are unknown to it.

    Args:
        params: of the run, which name the data set and the protocol, and say what is done with unreadable images.
        dataset: its query and gallery are used.
        network: embeds them.

    Raises:
        DataError: there is no query with a true match, or an image cannot be read.
    """
    dataset = dataset._replace(train=[], val=[])
    if params.bad_images == "skip":
        dataset = without_bad_images(dataset, params)
    if not dataset.query or not dataset.gallery:
        raise DataError(f"{params.test_sets[0]}: no query or no gallery images to measure on")
    features = TestFeatures(_embedded(network, dataset.query), _embedded(network, dataset.gallery))
    return _ranked(features, getattr(params.evaluation_params, "protocol", "cross_camera") == "cross_camera")


def _embedded(network: Network, samples: list[Sample]) -> Features:
    def read(part: list[Sample]) -> np.ndarray:
        return np.stack([network.profile.read(sample.path, network.resize) for sample in part])

    parts = [samples[first : first + BATCH] for first in range(0, len(samples), BATCH)]
    with tqdm(read_ahead(read, parts), "measuring", len(parts), leave=False, disable=bars_hidden()) as progress:
        rows = [network.embed(pixels).embeddings for pixels in progress]
    pids = torch.tensor([sample.pid for sample in samples])
    camids = torch.tensor([sample.camid for sample in samples])
    return Features(torch.from_numpy(np.concatenate(rows)), pids, camids, samples, network.branch_dims)


def _ranked(features: TestFeatures, cross_camera: bool) -> Measured:
    options = RetrievalOptions(protocol="cross_camera" if cross_camera else "camera_less")
    retrieval = retrieve(features, options, torch.device("cpu"))
    roc = retrieval_roc(retrieval.distances, retrieval.truth, options.memory).roc
    thresholds = [
        Threshold(far=far, tar=roc.tar_at(far), distance=distance)
        for far in FALSE_ACCEPT_RATES
        if (distance := roc.threshold_at(far)) is not None
    ]
    result = retrieval.result
    metrics = {"rank1": result.cmc(1), "rank5": result.cmc(5), "mAP": result.mean_ap, "mINP": result.mean_inp}
    # Layouts without cameras give those of the query other numbers than those of the gallery.
    skips_own_camera = cross_camera and bool(torch.isin(features.query.camids, features.gallery.camids).any())
    number = len(features.query.pids) + len(features.gallery.pids)
    return Measured(metrics, tuple(thresholds), number, skips_own_camera)


def subset(dataset: Dataset, max_images: int) -> Dataset:
    """The test set with every n-th identity, for the least n that leaves about `max_images`.

    Junk and distractor images, which belong to no identity, are thinned out in the same proportion.
    """
    number = len(dataset.query) + len(dataset.gallery)
    step = max(1, -(-number // max_images))
    nobody = (JUNK_PID, DISTRACTOR_PID)
    people = [pid for pid in sorted_pids([*dataset.query, *dataset.gallery]) if pid not in nobody]
    kept = set(people[::step])

    def thin(samples: Sequence[Sample]) -> list[Sample]:
        some = set([sample for sample in samples if sample.pid in nobody][::step])
        return [sample for sample in samples if sample.pid in kept or sample in some]

    return dataset._replace(query=thin(dataset.query), gallery=thin(dataset.gallery))
