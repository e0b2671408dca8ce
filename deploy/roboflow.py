"""A trained network as a model of roboflow's `reid`, where that has an architecture of the same embeddings.

Source: reid 0.1.0rc1, its architectures and its catalog.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from data.augmentation.normalisation import STATISTICS
from evaluate.core.load_model import Trained
from models.backbones.registry import OSNETS, TIMM

CONFIG, WEIGHTS = "reid_config.json", "weights.safetensors"
"""Names of its files."""
OSNET = {
    "head": "pcb",
    "pcb_n_parts": 0,
    "part_pooling": "avg",
    "feature_dim": 512,
    "feature_mask": "none",
    "embedding_relu": True,
    "retrieval_of": "embeddings",
}
"""The model_params of its OSNets: a linear layer, batch normalisation and ReLU follow the pooling."""
TOLERANCE = 1e-5
"""Of a value of an embedding of unit length."""


def reid_model(trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The content of its two files; None if it has no architecture with the same embeddings."""
    params, model = trained.params, trained.params.model_params.model
    weights = _osnet(trained) if model in OSNETS else _timm(trained)
    if weights is None:
        return None
    mean, std = STATISTICS[params.data_augmentation.normalisation]
    preprocessing = {
        "input_size": [params.img_h, params.img_w],
        "mean": mean,
        "std": std,
        "interpolation": params.data_augmentation.interpolation,
        "to_rgb": True,
        "resize_mode": "stretch",
    }
    architecture = model if model in OSNETS else f"{TIMM}{_timm_name(model)}"
    return {"architecture": architecture, "preprocessing": preprocessing}, weights


def _osnet(trained: Trained) -> dict[str, Tensor] | None:
    options, head = trained.params.model_params, trained.network.heads()[0]
    same = OSNETS[options.model][0] == "bn" and all(getattr(options, key) == value for key, value in OSNET.items())
    if not same or head.reduction is None or head.bn is None:
        return None
    linear = {"fc.0.weight": head.reduction.detach()[0].T, "fc.0.bias": torch.zeros(head.dim)}
    norm = {f"fc.1.{name}": value for name, value in head.bn.state_dict().items()}
    return {**trained.network.backbone.state_dict(), **linear, **norm}


def _timm_name(model: str) -> str:
    """timm calls the ResNets resnet50 and so on."""
    return model.removeprefix(TIMM) if model.startswith(TIMM) else model.replace("_", "")


@torch.inference_mode()
def _timm(trained: Trained) -> dict[str, Tensor] | None:
    """The backbone's weights, if timm's whole network without a classifier gives the same embeddings with them."""
    import timm

    network, state, size = trained.network.eval(), trained.network.backbone.state_dict(), trained.params.eval_resize[:2]
    theirs = timm.create_model(_timm_name(trained.params.model_params.model), num_classes=0).eval()
    shapes, own = ({key: value.shape for key, value in each.items()} for each in (theirs.state_dict(), state))
    if shapes != own:
        return None
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    first, second = F.normalize(theirs(images)), F.normalize(network.embed(images))
    return state if first.shape == second.shape and bool((first - second).abs().max() < TOLERANCE) else None
