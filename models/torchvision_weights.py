"""torchvision's ImageNet weights."""

from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from utils.errors import DataError


def fetch_imagenet(model: str, what: str, otherwise: str) -> tuple[Mapping[str, Tensor], Path]:
    """torchvision's ImageNet weights of one of its models, downloaded once: those of the original training recipe.

    The published results of re-identification start from them, not from the later ones.

    Args:
        model: as torchvision calls it, such as "resnet50".
        what: needs them; begins the error message.
        otherwise: what to do without them; ends it.

    Returns:
        The state dict, and the file it came from.

    Raises:
        DataError: the download failed; the message says where to put the file.
    """
    # torchvision takes seconds to import.
    from torchvision.models import get_model_weights

    weights = get_model_weights(model)["IMAGENET1K_V1"]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    target = folder / weights.url.rpartition("/")[2]
    try:
        return weights.get_state_dict(progress=True, check_hash=True), target
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            f"{what} could not be fetched ({error}); download {weights.url} and put it at {target}, or {otherwise}"
        ) from error
