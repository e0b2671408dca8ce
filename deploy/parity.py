"""Whether an exported model gives the embeddings of the network it was made from, on real images."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from config.params import ExportParams
from data.augmentation.normalisation import normalise
from data.images import decode
from data.samples import Dataset
from deploy.exportable import Exportable
from deploy.networks import OnnxNetwork
from evaluate.core.load_model import Trained
from models.network import Embedder
from utils.errors import DataError

NUM_TRIALS = 64
"""Images tried."""
LIMITS = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest difference of a number in an embedding of unit length. In 8 bits only the metrics tell what was lost."""
RESIZED_LIMIT = 2e-2
"""The same between resizing inside the model and by Pillow, which rounds to whole values after each direction."""
BATCHES = (1, 7, NUM_TRIALS)
"""Images at once, one batch after the other; the last takes what is left."""

logger = logging.getLogger(__name__)


def trial_images(dataset: Dataset) -> list[Path]:
    """Images spread evenly over the test set or, where there is none, over the training set.

    Raises:
        DataError: the data set has none.
    """
    paths = [sample.path for sample in (*dataset.query, *dataset.gallery)] or [one.path for one in dataset.train]
    if not paths:
        raise DataError("the data set has no images to try the exported model on; name another: --set batches_dir=DIR")
    places = np.linspace(0, len(paths) - 1, min(NUM_TRIALS, len(paths))).astype(int)
    return [paths[place] for place in places]


def check_parity(path: Path, trained: Trained, options: ExportParams, trials: Sequence[Path]) -> None:
    """Compare a model file to the network in torch, in batches of several sizes; logs the largest difference.

    Raises:
        DataError: they differ by more than the format allows, or the model gives NaN or infinity.
    """
    exported = OnnxNetwork(path)
    params = trained.params
    sized = np.stack([decode(image, params.img_h, params.img_w) for image in trials])
    reference = _by_torch(trained, sized)
    found = np.concatenate([exported.embed(batch).embeddings for batch in _batches(sized)])
    limit = LIMITS.get(options.precision, np.inf)
    _compare(found, reference, limit, f"{len(trials)} images, onnxruntime against torch", options)
    if not options.resize:
        return
    raw = [np.array(decode(image)) for image in trials]
    inside = np.concatenate([exported.embed(image[None]).embeddings for image in raw])
    _compare(inside, _resized_by_torch(trained, raw), limit, "the same at their own sizes, resized inside", options)
    _compare(inside, reference, max(limit, RESIZED_LIMIT), "resized inside against resized by Pillow", options)


def _compare(found: np.ndarray, reference: np.ndarray, limit: float, what: str, options: ExportParams) -> None:
    difference = float(np.abs(found - reference).max())
    cosine = float((found * reference).sum(axis=1).min())
    logger.info("%s: largest difference of embeddings %.2g, smallest cosine %.6f", what, difference, cosine)
    # Not "difference > limit": NaN is not at most anything.
    if not difference <= limit or not np.isfinite(found).all():
        advice = '; "fp32" is exact' if options.precision != "fp32" else ""
        raise DataError(
            f"the exported model differs from the trained network ({what}): by {difference:.2g}, at most {limit:g} "
            f"is allowed in {options.precision}{advice}. Nothing was written"
        )


def _batches(pixels: np.ndarray) -> list[np.ndarray]:
    batches = np.split(pixels, np.cumsum(BATCHES[:-1]))
    return [batch for batch in batches if len(batch)]


@torch.inference_mode()
def _by_torch(trained: Trained, pixels: np.ndarray) -> np.ndarray:
    """Embeddings (B, D) of unit length as the evaluation sees them, by other code than what is exported."""
    images = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2), trained.params.data_augmentation.normalisation)
    return torch.nn.functional.normalize(Embedder(trained.network).eval()(images)).numpy()


@torch.inference_mode()
def _resized_by_torch(trained: Trained, images: Sequence[np.ndarray]) -> np.ndarray:
    """The same of images (H, W, 3) of any sizes."""
    params = trained.params
    size = (params.img_h, params.img_w)
    module = Exportable(trained.network.eval(), params.data_augmentation.normalisation, resize_to=size)
    return np.concatenate([module(torch.from_numpy(image)[None])[0].numpy() for image in images])
