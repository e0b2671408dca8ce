"""A trained network as a model of roboflow's `reid`, where that has an architecture of the same embeddings.

Source: reid 0.1.0rc1, its architectures and its catalog.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.augmentation.normalisation import STATISTICS
from evaluate.core.load_model import Trained
from models.backbones.registry import OSNETS, TIMM
from models.backbones.resnet import DEPTHS
from models.outputs import GLOBAL
from models.pooling import StripePooling

CONFIG, WEIGHTS = "reid_config.json", "weights.safetensors"
"""Names of its files."""
OSNET_DIM = 512
"""Size of its OSNets' embeddings, those of a linear layer, batch normalisation and ReLU."""
TOLERANCE = 1e-5
"""Of a value of an embedding of unit length."""


class RoboflowModel(NamedTuple):
    """What its two files hold."""

    config: dict[str, Any]
    weights: dict[str, Tensor]


def reid_config(trained: Trained) -> RoboflowModel | None:
    """The network under its names; None if it has no architecture with the same embeddings."""
    params, options = trained.params, trained.params.model_params
    head = trained.network.heads()[0]
    plain = list(trained.network.branches) == [GLOBAL] and head.num_parts == 1 and head.mask is None
    if not plain or not isinstance(head.pooling, StripePooling) or head.pooling.kind != "avg":
        return None
    state = trained.network.backbone.state_dict()
    if options.model in OSNETS:
        added = _linear_layer(trained) if OSNETS[options.model][0] == "bn" else None
        if added is None:
            return None
        architecture, weights = options.model, {**state, **added}
    else:
        is_timm = options.model.startswith(TIMM)
        architecture = options.model if is_timm else f"{TIMM}{options.model.replace('_', '')}"
        if not (is_timm or options.model in DEPTHS) or not _is_pooled(trained, architecture.removeprefix(TIMM)):
            return None
        weights = state
    mean, std = STATISTICS[params.data_augmentation.normalisation]
    preprocessing = {
        "input_size": [params.img_h, params.img_w],
        "mean": mean,
        "std": std,
        "interpolation": params.data_augmentation.interpolation,
        "to_rgb": True,
        "resize_mode": "stretch",
    }
    return RoboflowModel({"architecture": architecture, "preprocessing": preprocessing}, weights)


def _linear_layer(trained: Trained) -> dict[str, Tensor] | None:
    """What follows the pooling of its OSNets, if the network has it, too."""
    head = trained.network.heads()[0]
    is_same = head.relu and trained.network.retrieval_of == "embeddings"
    if head.reduction is None or head.bn is None or not is_same or head.dim != OSNET_DIM:
        return None
    norm = {f"fc.1.{name}": value for name, value in head.bn.state_dict().items()}
    return {"fc.0.weight": head.reduction.detach()[0].T, "fc.0.bias": torch.zeros(OSNET_DIM), **norm}


@torch.inference_mode()
def _is_pooled(trained: Trained, name: str) -> bool:
    """Whether timm's network of this name, with the backbone's weights, gives the same embeddings."""
    import timm

    network, state = trained.network, trained.network.backbone.state_dict()
    theirs = timm.create_model(name, num_classes=0)
    own = {key: value.shape for key, value in theirs.state_dict().items()}
    if own != {key: value.shape for key, value in state.items()}:
        return False
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, trained.params.img_h, trained.params.img_w, generator=torch.Generator().manual_seed(0))
    pairs = (torch.nn.functional.normalize(each(images)) for each in (theirs.eval(), network.eval().embed))
    first, second = pairs
    return first.shape == second.shape and bool((first - second).abs().max() < TOLERANCE)
