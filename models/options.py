"""The settings of the network."""

from typing import Literal

from pydantic import Field

from models.pooling import Pooling
from utils.options import Options


class ModelParams(Options):
    """Backbone and heads."""

    model: Literal["resnet_18", "resnet_34", "resnet_50", "resnet_101", "resnet_152"] = "resnet_50"
    """Backbone."""
    last_conv_stride: Literal[1, 2] = 1
    """Stride of the last stage: 1 keeps twice the height and width of the feature map."""
    zero_init_residual: bool = False
    """Start each residual block as its shortcut: the last normalisation's weight is zero (Goyal et al. 2017)."""
    feature_dim: int = Field(default=256, ge=0)
    """Size of the embedding: all stripes together, or the single feature; 0 = each pooled feature itself."""
    pcb_n_parts: int = Field(default=0, ge=0)
    """Horizontal stripes of the PCB head (Sun et al. 2018); 0 = one feature from the whole map."""
    feature_global_dim: int = Field(default=0, ge=0)
    """Size of the global branch's embedding beside the stripes; 0 = no global branch."""
    global_own_stage4: bool = False
    """Give the global branch a last stage of its own, which starts as a copy of the shared one."""
    part_pooling: Pooling = "avg"
    """Pooling inside each stripe, and of the single feature; "gem": generalised mean, its power trained."""
    global_pooling: Pooling = "max"
    """Pooling of the global branch."""
    part_bn: bool = True
    """Batch normalisation of each stripe's (or the single) embedding."""
    global_bn: bool = True
    """Batch normalisation of the global branch's embedding."""
    bn_bias: bool = True
    """Whether that batch normalisation has a trained offset."""
    embedding_relu: bool = False
    """Cut embeddings off below zero, after their normalisation."""
    feature_mask: Literal["none", "parts", "global", "all"] = "none"
    """Branches whose features are multiplied by a sigmoid gate computed from the pooled feature."""
    classifier: Literal["linear", "cosine"] = "linear"
    """"cosine": class weights have unit length, as margin softmax needs them."""
    cosine_scale: float = Field(default=0.0, ge=0.0)
    """Length s that embeddings have before a cosine classifier; 0 = their own, which a constant margin can collapse."""
    classifier_bias: bool = False
    """Whether the classifiers have a bias."""
    pcb_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate on the feature map before the stripes (or the single feature)."""
    feature_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate between an embedding and its classifier."""
    part_feature_erasing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of each stripe's rows of the feature map set to zero in training, a random band; 0 = off."""
    global_feature_erasing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The same for the map that the global branch or the single feature sees."""
    random_drop_branches: int = Field(default=0, ge=0, le=1000)
    """Draws (with replacement) of stripes that get no gradient from a step; one always does; 0 = all do."""
    update_max_loss_branch: bool = False
    """Of all stripes only the one with the highest classification loss of the batch gets a gradient."""
    spectral_trans: float = Field(default=0.0, ge=0.0)
    """Temperature sigma of the spectral feature transform (Luo et al. 2018) in a batch, each device's own; 0 = off."""
    spectral_start_epoch: int = Field(default=0, ge=0)
    """Epochs without the spectral transform at the start."""
    spectral_start_accuracy: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Training accuracy of an epoch after which the spectral transform acts; spectral_start_epoch must be over too."""

    @property
    def stride(self) -> int:
        """Of the backbone: pixels per row and column of its feature map."""
        return 16 * self.last_conv_stride


class GeneratorOptions(Options):
    """The networks of the person generator."""

    img_h: Literal[64, 128, 256] = 64
    """Height of the generated pictures, pixels; they are half as wide."""
    input_dim: int = Field(default=128, ge=1)
    """Size of the noise that a picture is made from, a vector of unit length."""
    ngf: int = Field(default=16, ge=1)
    """Channels of the generator's largest map; the smallest has up to 16 times as many."""
    ndf: int = Field(default=32, ge=1)
    """Channels of the discriminator's largest map; the smallest has up to eight times as many."""
    spectral_norm: bool = True
    """Spectral normalisation (Miyato et al. 2018) of every layer of the discriminator."""
    condition: str = ""
    """Checkpoint or run folder of a re-ID network whose embedding says whom to show; "" = anybody."""
    pretrain_snapshot_g: str = ""
    """Generator to start from, or to take pictures from: a run folder or a file of train_gan; "" = none."""
    pretrain_snapshot_d: str = ""
    """Discriminator to start from, from such a file too; "" = none."""


class ModelOptions(Options):
    """The keys of params.json that `models/` reads."""

    model_params: ModelParams = ModelParams()
    """Backbone and heads."""
    imagenet_pretrain: bool = False
    """Start the backbone from torchvision's ImageNet weights."""
    pretrain_snapshot: str = ""
    """Checkpoint or state dict to start from; loaded after imagenet_pretrain; "" = none."""
