"""Extract features: run the network over images, batched, sharded over processes and with a progress bar."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from data.augmentation.normalisation import normalise
from data.eval_loader import eval_batches
from data.features import Features
from data.samples import SOURCE_STRIDE, UNKNOWN_CAMID, Sample, fingerprint
from evaluate.core.context import EvalContext
from models.network import Embedder
from utils.distributed import fail_together, gather_objects, gather_rows, is_one_of_several, this_process
from utils.errors import DataError
from utils.logs import bars_hidden
from utils.memory import explain_oom
from utils.precision import CompileName, choose_compilation, evaluation_precision

logger = logging.getLogger(__name__)

Reading = Callable[..., Tensor]
"""Normalised images (B, 3, H, W) -> one row per image (B, D): `online_net` or one of its methods.

Those of a network with camera embeddings also take the cameras (B,) int64.
"""

IMAGES_PER_STEP = 192
"""Images that are embedded in the time of a training step of 64 images, of which the forward pass is about a third: an
estimate until it is measured."""


def extract(config: EvalContext, samples: Sequence[Sample], description: str, *, flip: bool = False) -> Features:
    """Embed every image with `config.online_net`, on the network's device.

    Args:
        config: image size, interpolation, normalisation, batch size and `bad_images`.
        samples: the images.
        description: label of the progress bar, such as "query".
        flip: add the embedding of the mirror image to that of the image.

    Returns:
        Embeddings as the network returns them, not of unit length, in the order of `samples`. With "bad_images": "skip"
        unreadable images are left out. `branch_dims` is the network's, if it has that attribute.

    Raises:
        DataError: no readable image, or embeddings that are NaN or infinite.
        ValueError: the network is in training mode, or does not return (B, D).
    """
    net = config.online_net
    kept, features = read_images(config, samples, description, net, flip=flip)
    pids = torch.tensor([sample.pid for sample in kept])
    camids = torch.tensor([sample.camid for sample in kept])
    return Features(features, pids, camids, kept, getattr(net, "branch_dims", ()))


def read_images(
    config: EvalContext, samples: Sequence[Sample], description: str, reading: Reading, *, flip: bool = False
) -> tuple[list[Sample], Tensor]:
    """Apply `reading` to every image, in batches; `extract` does this with the network itself.

    Each process reads a share of the images and all gather the rows; every process must call this with the same images.

    Args:
        reading: `config.online_net` or a method of it, such as its `logits`.
        config, samples, description, flip: as for `extract`; with `flip`, both readings are added.

    Returns:
        The N readable images, in order, and their rows (N, D) float32 on the CPU.

    Raises:
        DataError, ValueError: as for `extract`.
        UserError: a batch takes more memory than the device has.
    """
    net = config.online_net
    if net.training:
        raise ValueError("online_net: the network is in training mode; call net.eval() before evaluating it")
    _check_same(samples, description)
    start = time.monotonic()
    part = this_process().share(len(samples))
    batch = f"{config.evaluation_params.batch_size} images of {config.img_h} x {config.img_w} a batch"
    advice = "lower evaluation_params.batch_size"
    if isinstance(net, Embedder):
        _report_unseen_cameras(net, config, samples, description)
    if reading is net:
        _compile_if_it_pays(net, config.compile, (part.stop - part.start) * (2 if flip else 1))
    with fail_together(), explain_oom(f"{description}: evaluating {batch}", advice):
        places, batches = _read_batches(config, net, samples[part], description, reading, flip=flip)
    shares = gather_objects([part.start + place for place in places])
    positions = [position for share in shares for position in share]
    if not positions:
        raise DataError(f"{description}: none of {len(samples)} images can be read")
    logger.info(
        "%s: %d images, %.0f images/s", description, len(positions), len(positions) / (time.monotonic() - start)
    )
    # Concatenated outside inference mode, so that a plug-in may modify the rows in place.
    # A process without images does not know how long a row is.
    width = max(gather_objects(batches[0].shape[1] if batches else 0))
    rows = gather_rows(torch.cat([torch.empty(0, width), *batches]))
    if len(positions) < len(samples):
        logger.warning(
            "%s: %d of %d images unreadable, left out", description, len(samples) - len(positions), len(samples)
        )
    kept = [samples[position] for position in positions]
    _check_finite(rows, kept, description)
    return kept, rows


@torch.inference_mode()
def _read_batches(
    config: EvalContext, net: nn.Module, samples: Sequence[Sample], description: str, reading: Reading, *, flip: bool
) -> tuple[list[int], list[Tensor]]:
    """The positions in `samples` that could be read, and their rows in batches (B, D)."""
    paths = [sample.path for sample in samples]
    batch_size = config.evaluation_params.batch_size
    device = _device(net)
    precision = evaluation_precision(config.precision, device)
    positions: list[int] = []
    batches: list[Tensor] = []
    camids = _cameras(config, net, samples)
    pinned = device.type == "cuda"
    stream = eval_batches(paths, config.eval_resize, batch_size, config.bad_images, cache=config.images, pinned=pinned)
    bar = tqdm(desc=description, total=len(samples), unit="img", leave=False, disable=bars_hidden())
    # Closed on failure too, or its threads would read on until the garbage collector finds it.
    with closing(stream), bar as progress:
        for kept, pixels in stream:
            pixels = _filled_up(pixels.to(device, non_blocking=True), batch_size)
            images = normalise(pixels, config.data_augmentation.normalisation)
            cameras = () if camids is None else (_cameras_of(camids[kept], images),)
            with precision.autocast(device):
                rows = reading(images, *cameras).float()
                if rows.shape[:-1] != (len(images),):
                    raise ValueError(f"online_net: returned {tuple(rows.shape)} for {len(images)} images, not (B, D)")
                if flip:
                    rows = rows + reading(images.flip(3), *cameras).float()
            # Copied off the device at once: training needs the memory that a large gallery would take. The copies are
            # asynchronous, as are those of the images, so that the device never waits for this loop while images are
            # read fast enough; `synchronize` below waits for them.
            batches.append(rows[: len(kept)].to("cpu", non_blocking=True))
            positions += kept
            progress.update(len(kept))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return positions, batches


def _cameras(config: EvalContext, net: nn.Module, samples: Sequence[Sample]) -> Tensor | None:
    """The cameras of the images (N,) int64; None for a network that does not ask for them, or cannot know them."""
    if not getattr(net, "camids", ()) or config.evaluation_params.same_cameras is False:
        return None
    return torch.tensor([sample.camid + config.source * SOURCE_STRIDE for sample in samples])


def _cameras_of(camids: Tensor, images: Tensor) -> Tensor:
    """The cameras of a batch on its device, filled up as the images are."""
    return F.pad(camids, (0, len(images) - len(camids)), value=UNKNOWN_CAMID).to(images.device, non_blocking=True)


def _report_unseen_cameras(net: Embedder, config: EvalContext, samples: Sequence[Sample], description: str) -> None:
    """Log once which cameras get the mean of a network's camera embeddings."""
    are_same = config.evaluation_params.same_cameras is not False
    offset = config.source * SOURCE_STRIDE
    known = {camid - offset for camid in {*(net.camids if are_same else ()), *net.reported}}
    unseen = sorted({sample.camid for sample in samples} - known)
    if net.camids and unseen:
        net.reported.update(camid + offset for camid in unseen)
        listing = ", ".join(map(str, unseen[:10])) + (f" and {len(unseen) - 10} more" if len(unseen) > 10 else "")
        advice = "" if are_same else "; if these are the cameras of the training, set evaluation_params.same_cameras"
        text = "%s: the network was not trained with cameras %s; they get the mean of its camera embeddings%s"
        logger.info(text, description, listing, advice)


def _filled_up(pixels: Tensor, batch_size: int) -> Tensor:
    """Images (B, 3, H, W), filled up with black ones to a full batch on a GPU, in the same memory format.

    There another batch size would compile the network once more, and let cuDNN search for its algorithms once more.
    """
    missing = batch_size - len(pixels)
    return F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, missing)) if missing and _has_one_shape(pixels.device) else pixels


def _has_one_shape(device: torch.device) -> bool:
    """Whether all batches have to have the same shape."""
    return device.type == "cuda"


def _compile_if_it_pays(net: nn.Module, name: CompileName, num_images: int) -> None:
    """Compile an embedding of so many images that it makes up for the time; a training has compiled its own before."""
    if name == "off" or not isinstance(net, Embedder) or net.is_compiled:
        return
    if choose_compilation("auto", _device(net), num_images // IMAGES_PER_STEP).mode == "on":
        net.compile(dynamic=False)


def _check_same(samples: Sequence[Sample], description: str) -> None:
    """Check that all processes were given the same images."""
    if is_one_of_several() and len(set(gather_objects(fingerprint(samples)))) > 1:
        raise DataError(f"{description}: the processes of this evaluation have different images")


def _check_finite(rows: Tensor, samples: Sequence[Sample], description: str) -> None:
    bad = (~rows.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise DataError(
            f"{description}: the network returns NaN or infinity for {len(bad)} of {len(rows)} images, the first is "
            f"{samples[bad[0]].path}; its weights have diverged or were damaged"
        )


def _device(net: nn.Module) -> torch.device:
    """The device of the network's first parameter or buffer; the CPU if it has neither."""
    first = next(chain(net.parameters(), net.buffers()), None)
    return torch.device("cpu") if first is None else first.device
