"""The settings of the network."""

from typing import Literal

from pydantic import Field

from utils.options import Options

Pooling = Literal["avg", "max"]


class ModelParams(Options):
    """Backbone and heads."""

    model: Literal["resnet_18", "resnet_34", "resnet_50", "resnet_101", "resnet_152"] = "resnet_50"
    """Backbone."""
    last_conv_stride: Literal[1, 2] = 1
    """Stride of the last stage: 1 keeps twice the height and width of the feature map."""
    zero_init_residual: bool = False
    """Start each residual block as its shortcut: the last normalisation's weight is zero (Goyal et al. 2017)."""
    feature_dim: int = Field(default=256, ge=1)
    """Size of the embedding: of all stripes together, or of the single feature when pcb_n_parts is 0."""
    pcb_n_parts: int = Field(default=0, ge=0)
    """Horizontal stripes of the PCB head (Sun et al. 2018); 0 = one feature from the whole map."""
    feature_global_dim: int = Field(default=0, ge=0)
    """Size of the global branch's embedding beside the stripes; 0 = no global branch."""
    part_pooling: Pooling = "avg"
    """Pooling inside each stripe, and of the single feature."""
    global_pooling: Pooling = "max"
    """Pooling of the global branch."""
    part_bn: bool = True
    """Batch normalisation of each stripe's (or the single) embedding."""
    global_bn: bool = True
    """Batch normalisation of the global branch's embedding."""
    bn_bias: bool = True
    """Whether that batch normalisation has a trained offset."""
    classifier_bias: bool = False
    """Whether the classifiers have a bias."""
    pcb_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate on the feature map before the stripes (or the single feature)."""
    feature_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate between an embedding and its classifier."""


class ModelOptions(Options):
    """The keys of params.json that `models/` reads."""

    model_params: ModelParams = ModelParams()
    """Backbone and heads."""
    imagenet_pretrain: bool = False
    """Start the backbone from torchvision's ImageNet weights."""
    pretrain_snapshot: str = ""
    """Checkpoint or state dict to start from; loaded after imagenet_pretrain; "" = none."""
