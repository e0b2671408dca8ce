"""From images to embeddings, with the network that is being evaluated."""

import logging
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from config.params import Params
from data.augment import normalise
from data.samples import Sample
from data.store import stream_images
from utils.errors import DataError

logger = logging.getLogger(__name__)


class Features(NamedTuple):
    """Embeddings of N images: features (N, D) float32, pids (N,) and camids (N,) int64, all on the CPU."""

    features: Tensor
    pids: Tensor
    camids: Tensor
    samples: list[Sample]


def extract(config: Params, samples: Sequence[Sample], description: str) -> Features:
    """Embed every image with `config.online_net`, on the device the network lies on.

    Args:
        config: says the size and normalisation of the images, the batch size, and what an unreadable image means.
        samples: the images.
        description: stands before the progress bar, "query" or "gallery".

    Returns:
        Embeddings as the network gives them, not of unit length, in the order of `samples`. With "bad_images": "skip"
        unreadable images are missing from it.

    Raises:
        DataError: no readable image, or embeddings that are NaN or infinite.
        ValueError: the network is in training mode, or returns something else than (B, D).
    """
    net = config.online_net
    if net.training:
        raise ValueError("online_net: the network is in training mode; call net.eval() before evaluating it")
    positions, batches = _embed_all(config, net, samples, description)
    if not positions:
        raise DataError(f"{description}: none of {len(samples)} images can be read")
    # Joined outside inference mode, so that a plug-in may do with the features what it likes.
    features = torch.cat(batches)
    if len(positions) < len(samples):
        logger.warning(
            "%s: %d of %d images unreadable, left out", description, len(samples) - len(positions), len(samples)
        )
    kept = [samples[position] for position in positions]
    _check_finite(features, kept, description)
    pids = torch.tensor([sample.pid for sample in kept])
    camids = torch.tensor([sample.camid for sample in kept])
    return Features(features, pids, camids, kept)


@torch.inference_mode()
def _embed_all(
    config: Params, net: nn.Module, samples: Sequence[Sample], description: str
) -> tuple[list[int], list[Tensor]]:
    """The positions in `samples` that could be read, and their embeddings in batches (B, D)."""
    paths = [sample.path for sample in samples]
    batch_size = config.evaluation_params.batch_size
    device = _device(net)
    positions: list[int] = []
    batches: list[Tensor] = []
    with tqdm(desc=description, total=len(samples), unit="img", leave=False, disable=None) as progress:
        for kept, images in stream_images(paths, config.img_h, config.img_w, batch_size, bad_images=config.bad_images):
            embeddings = net(normalise(images.to(device), config.data_augmentation.normalisation))
            if embeddings.shape[:-1] != (len(kept),):
                raise ValueError(f"online_net: returned {tuple(embeddings.shape)} for {len(kept)} images, not (B, D)")
            # Moved off the device at once: a large gallery would take memory there that training needs.
            batches.append(embeddings.float().cpu())
            positions += kept
            progress.update(len(kept))
    return positions, batches


def _check_finite(features: Tensor, samples: Sequence[Sample], description: str) -> None:
    bad = (~features.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise DataError(
            f"{description}: {len(bad)} of {len(features)} embeddings hold NaN or infinity, the first that of "
            f"{samples[bad[0]].path}; the network's weights have diverged or were damaged"
        )


def _device(net: nn.Module) -> torch.device:
    """Where the network's first parameter or buffer lies; a network without either runs on the CPU."""
    first = next(chain(net.parameters(), net.buffers()), None)
    return torch.device("cpu") if first is None else first.device
