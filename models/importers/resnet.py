"""ResNets under torchvision's names in foreign files."""

from collections.abc import Sequence
from typing import Any

from models.backbones.resnet import DEPTHS
from models.importers.weights import ForeignWeights
from utils.errors import DataError


def resnet_options(weights: ForeignWeights, stages: Sequence[str], others: int = 0) -> dict[str, Any]:
    """The settings of the ResNet in a file.

    Args:
        weights: of the file.
        stages: how the names of the blocks of its four stages start, before their numbers.
        others: blocks of the third stage with other names.

    Raises:
        DataError: it is no ResNet that is known here.
    """
    first = f"{stages[0]}0."
    if weights.has(f"{first}se."):
        raise DataError("a ResNet with squeeze-and-excitation, which is not supported")
    block = "Bottleneck" if f"{first}conv3.weight" in weights.left else "BasicBlock"
    one, two, three, four = (weights.count(stage) for stage in stages)
    depths = (one, two, three + others, four)
    model = next((name for name, known in DEPTHS.items() if known == (block, depths)), None)
    if model is None:
        raise DataError(f"no ResNet-18, 34, 50, 101 or 152, as its stages have {depths} blocks; others are unsupported")
    return {"model": model, "ibn": weights.has(f"{first}bn1.IN.")}
