"""torchreid's OSNets and ResNets.

Source: Zhou and Xiang 2019, arXiv 1910.10093, and its code: osnet.py, osnet_ain.py, resnet.py, resnet_ibn_a.py.
"""

from collections.abc import Collection
from typing import Any

from models.backbones.osnet import CHANNELS, own_name
from models.backbones.registry import OSNETS
from models.importers.resnet import resnet_options
from models.importers.weights import ForeignWeights, Imported
from utils.errors import DataError

LOOKS_LIKE = "an OSNet or a ResNet of torchreid"


def recognises(names: Collection[str]) -> bool:
    """Whether a file with these names is one of torchreid's."""
    return "conv1.conv.weight" in names or ("layer1.0.conv1.weight" in names and "classifier.weight" in names)


def translate(weights: ForeignWeights) -> Imported:
    """torchreid compares the pooled features, or what a linear layer, batch normalisation and ReLU make of them.

    The linear layer's bias is subtracted from the mean of the normalisation, which has the same effect. Published
    figures are of Euclidean distances, but those of OSNet-AIN of cosines.

    Raises:
        DataError: it is another network.
    """
    model_params: dict[str, Any] = {"feature_dim": 0, "neck": "none", "part_pooling": "avg"}
    if weights.has("conv1.conv."):
        model_params["model"] = _osnet(weights)
        for name in ("conv", "pool"):
            weights.move(name, "backbone.", lambda rest, name=name: own_name(name + rest))
    else:
        stride = 1 if weights.has("fc.") else 2
        model_params |= {
            **resnet_options(weights, [f"layer{stage}." for stage in (1, 2, 3, 4)]),
            "last_conv_stride": stride,
        }
        weights.assumed.append(
            f"model_params.last_conv_stride is {stride}, as of torchreid's resnet50{'_fc512' if stride == 1 else ''}"
        )
        for name in ("conv1", "bn1", "layer"):
            weights.move(name, f"backbone.{name}")
    weights.drop("classifier.")
    if weights.has("fc."):
        weights.move_reductions(["fc.0.weight"], "branches.global.reduction")
        weights.move_norms(["fc.1"], "branches.global.bn", weights.take("fc.0.bias"))
        model_params |= {"feature_dim": weights.own["branches.global.reduction"].shape[2], "neck": "bn"}
        model_params["embedding_relu"] = True
    metric = "cosine" if "_ain" in model_params["model"] else "euclidean"
    return weights.imported(
        {
            "img_h": 256,
            "img_w": 128,
            "data_augmentation": {"normalisation": "imagenet", "interpolation": "bilinear"},
            "model_params": model_params,
            "evaluation_params": {"type": "market_evaluate", "metric": metric},
        }
    )


def _osnet(weights: ForeignWeights) -> str:
    """The name of the OSNet in a file."""
    width = weights.left["conv1.conv.weight"].shape[0] / CHANNELS[0]
    kind = "ain" if weights.has("pool2.") else "ibn" if weights.has("conv2.0.IN.") else "bn"
    found = next((name for name, known in OSNETS.items() if known == (kind, width)), None)
    if found is None:
        raise DataError(f"an OSNet of kind {kind} and width {width}; known are {', '.join(OSNETS)}")
    return found
