"""What an evaluation plug-in gets as its `config`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import nn

from config.params import Params
from data.cache import DecodedImageCache
from data.features import TestFeatures
from utils.errors import ParamsError
from utils.files import expand_user


@dataclass(frozen=True)
class EvalContext:
    """The params of one evaluation, every key as an attribute, and the network or the features to measure.

    Args:
        params: the validated params.
        network: see `online_net`; None where features are evaluated.
        images: decoded images that outlast the evaluation, for the next one; None = each evaluation decodes its own.
        features: embeddings read from a file, evaluated instead of a network's.
        source: number of the data set among those the network was trained on, whose cameras it knows by that.
    """

    params: Params
    network: nn.Module | None = None
    images: DecodedImageCache | None = None
    features: TestFeatures | None = None
    source: int = 0

    def __getattr__(self, key: str) -> Any:
        """The value of a key of the params."""
        # copy and pickle look up methods such as __setstate__ before `params` is set.
        if key == "params" or key.startswith("__"):
            raise AttributeError(key)
        return getattr(self.params, key)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A context with a copy of the params, some keys changed, and the same network, images and features."""
        return replace(self, params=self.params.model_copy(update=update, deep=deep))

    @property
    def online_net(self) -> nn.Module:
        """The network to measure, in eval mode: normalised images (B, 3, H, W) -> embeddings (B, D).

        Raises:
            ParamsError: there are only features from a file.
        """
        if self.network is None:
            params = self.params
            plugin = params.evaluation_params.type
            raise ParamsError(
                f"evaluation_params.type: {plugin} measures a network, and {params.batches_dir} holds features only"
            )
        return self.network

    @property
    def model(self) -> str:
        """The network and its images in words, for reports."""
        if self.network is None:
            return "embeddings from a file"
        return f"{self.params.model_params.model}, images of {self.params.img_w} × {self.params.img_h}"

    @property
    def has_net(self) -> bool:
        """Whether there is a network; features from a file have none."""
        return self.network is not None


def title_of(folder: str) -> str:
    """Name of a data set, for the title of its report."""
    return "Synthetic pedestrians" if folder == "synthetic" else expand_user(folder).resolve().name or folder
