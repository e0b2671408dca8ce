"""Convolutional networks of timm."""

import logging
from collections.abc import Mapping

import timm
import torch
from torch import Tensor

from models.backbones.backbone import Backbone, BackboneError
from models.backbones.timm_stages import MODEL, create_model, outline_of, remove_stride
from utils.errors import DataError, ParamsError

LIKE_TORCHVISION = {
    "mobilenetv2_100": "mobilenet_v2",
    **{name: name for name in (f"efficientnet_b{number}" for number in range(4))},
}
"""Networks of timm that are one of torchvision's, with the same tensors in the same order under other names."""
TORCHVISION_NAMES = ("features.", "layers.", "trunk_output.")
"""How the names in torchvision's state dicts start, where they are not the same as timm's."""

logger = logging.getLogger(__name__)


class FromTimm(Backbone):
    """A network of timm: its stages run one after another, and it has timm's weights.

    Args:
        name: as timm knows it, such as "resnet50.a1_in1k".
        out_channels, stage_names: as of `Backbone`.
    """

    def __init__(self, name: str, out_channels: int, stage_names: tuple[tuple[str, ...], ...]) -> None:
        super().__init__(out_channels, stage_names)
        self.name = name

    def trunk(self, images: Tensor, camids: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) -> input of the last stage, in the layout in which it takes it."""
        for stage in self.stage_names[:-1]:
            images = self.run(stage, images)
        return images

    def imagenet_state(self) -> Mapping[str, Tensor]:
        """timm's pretrained weights of this name, downloaded once.

        Raises:
            ParamsError: timm has none.
            DataError: they could not be fetched, or do not fit.
        """
        own = self.state_dict().keys()
        state = self.with_own_names(pretrained_state(self.name))
        return {key: value for key, value in state.items() if key in own}


class TimmBackbone(FromTimm):
    """A network of timm without pooling and classifier; parameter names are timm's.

    Args:
        name: as timm knows it, such as "resnet50.a1_in1k".
        last_conv_stride: 1 to run the last stage at the resolution of the one before it.
        zero_init_residual: zero-initialise the last BN weight of each residual block.
        drop_path: rate of stochastic depth of the last block; the others' rise to it linearly.

    Raises:
        BackboneError: the network has no feature map, or not with these options.

    Source: Wightman 2019, "PyTorch Image Models", doi 10.5281/zenodo.4414861.
    """

    def __init__(
        self, name: str, last_conv_stride: int, zero_init_residual: bool = False, drop_path: float = 0.0
    ) -> None:
        outline = outline_of(name)
        super().__init__(name, outline.out_channels, outline.stages)
        if zero_init_residual and "zero_init_last" not in outline.arguments:
            keys = ("model_params.zero_init_residual", MODEL)
            raise BackboneError(keys, f"timm has no such initialisation of timm:{name} (model); set it to false")
        if drop_path and "drop_path_rate" not in outline.arguments:
            text = f"timm has no stochastic depth of timm:{name} (model); set it to 0"
            raise BackboneError(("model_params.drop_path", MODEL), text)
        if last_conv_stride == 1 and not outline.keeps_resolution:
            text = f"1 is impossible for timm:{name} (model), whose last stage has no convolutions to run with stride 1"
            raise BackboneError(("model_params.last_conv_stride", MODEL), f"{text}; set it to 2")
        wanted = {"zero_init_last": zero_init_residual, "drop_path_rate": drop_path}
        whole = create_model(name, **{key: value for key, value in wanted.items() if key in outline.arguments})
        used = {module.partition(".")[0] for stage in self.stage_names for module in stage}
        for child, module in whole.named_children():
            if child in used:
                self.add_module(child, module)
        if last_conv_stride == 1:
            remove_stride(self, self.last)

    def with_own_names(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Names of torchvision become timm's, where timm has the network under other names."""
        theirs = {key: value for key, value in state.items() if key.startswith(TORCHVISION_NAMES)}
        copies = tuple(f"{copy}." for names in self.copies for copy in names)
        own = {key: value for key, value in self.state_dict().items() if not key.startswith(copies)}
        if not theirs or own.keys() & theirs.keys():
            return state
        known = LIKE_TORCHVISION.get(self.name.partition(".")[0])
        if known is None:
            networks = ", ".join(f"{name} for timm:{ours}" for ours, name in LIKE_TORCHVISION.items())
            raise ValueError(
                f"{next(iter(theirs))} is a name of torchvision's, which are not translated for timm:{self.name}; "
                f"take a file with timm's names (translated are {networks})"
            )
        layers, given = _layers(own), _layers(theirs)
        if list(layers.values()) != list(given.values()):
            raise ValueError(f"the names are torchvision's, but the tensors are not those of its {known}")
        others = {key: value for key, value in state.items() if key not in theirs}
        return {**{ours: theirs[key] for ours, key in zip(layers, given, strict=True)}, **others}


def _layers(state: Mapping[str, Tensor]) -> dict[str, tuple[str, torch.Size]]:
    """The end of the name and the shape of each tensor, without the counters of batches, which are not used."""
    ends = {key: key.rpartition(".")[2] for key in state}
    return {key: (end, state[key].shape) for key, end in ends.items() if end != "num_batches_tracked"}


def pretrained_state(name: str) -> dict[str, Tensor]:
    """timm's pretrained weights of a whole network, downloaded once.

    Raises:
        ParamsError: timm has none.
        DataError: they could not be fetched, or do not fit.
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ParamsError(f"imagenet_pretrain: timm has no weights for {MODEL} timm:{name}; set it to false")
    file = f"model.safetensors of https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
    try:
        # With its classifier, since timm then loads strictly.
        whole = timm.create_model(name, pretrained=True)
    # The libraries that timm downloads with raise errors of many types.
    except Exception as error:
        raise DataError(
            f"imagenet_pretrain: the weights of timm:{name} could not be loaded "
            f"({' '.join(str(error).split())}); download {file}, name it as pretrain_snapshot, "
            "and set imagenet_pretrain to false"
        ) from error
    logger.info("backbone: timm's pretrained weights: %s", file)
    return whole.state_dict()


def model_names() -> set[str]:
    """The names that timm knows, with and without those of weights."""
    return {*timm.list_models(), *timm.list_models(include_tags=True)}
