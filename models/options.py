"""The settings of the network."""

from typing import Annotated, Literal

from pydantic import Field

from models.backbones.backbone import BackboneOptions
from models.backbones.registry import BackboneName
from models.heads import Neck
from models.outputs import GLOBAL, PARTS, FeatureKind
from models.pooling import Pooling
from utils.options import Options

HEADS: dict[Literal["mgn", "lightmbn", "clip", "jpm"], dict[str, int]] = {
    "mgn": {GLOBAL: 1, "global2": 1, "parts2": 2, "global3": 1, "parts3": 3},
    "lightmbn": {GLOBAL: 1, "drop": 1, "global2": 1, "parts2": 2, "channels": 2},
    "clip": {GLOBAL: 1, "projected": 1},
    "jpm": {GLOBAL: 1, PARTS: 4},
}
"""Branches of the heads other than "pcb", and the parts of each."""


class ModelParams(BackboneOptions):
    """Backbone and heads."""

    model: BackboneName = "resnet_50"
    """Backbone: a ResNet of torchvision, an OSNet, or "timm:NAME" for a CNN or a transformer of timm."""
    head: Literal["pcb", "mgn", "lightmbn", "clip", "jpm"] = "pcb"
    """Branches: "pcb": one feature, or stripes; those of MGN, LightMBN, CLIP-ReID's baseline, or TransReID ("jpm")."""
    camera_embedding: float = Field(default=0.0, ge=0.0)
    """Factor of learnable vectors of cameras that a vision transformer's tokens get (TransReID's SIE: 3); 0 = off."""
    mixstyle: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that the feature statistics of a batch are mixed after a ResNet's or OSNet's first two stages."""
    mixstyle_alpha: float = Field(default=0.1, gt=0.0)
    """For mixstyle (Zhou et al. 2021): the share of an image's own statistics is of Beta(alpha, alpha)."""
    mixstyle_across_cameras: bool = False
    """For mixstyle: with the statistics of an image of another camera; false: of any image of the batch."""
    feature_dim: int = Field(default=256, ge=0)
    """Embedding size: all stripes together, a single feature, each of another head, "clip"'s projection; 0 = pooled."""
    pcb_n_parts: int = Field(default=0, ge=0)
    """Horizontal stripes of the PCB head (Sun et al. 2018); 0 = one feature from the whole map."""
    feature_global_dim: Annotated[int, Field(ge=0)] | Literal["pooled"] = 0
    """Embedding size of the global branch beside stripes; "pooled" = the pooled feature itself; 0 = no such branch."""
    global_own_stage4: bool = False
    """Give the global branch its own last stage, initialised as a copy of the shared one."""
    part_pooling: Pooling = "avg"
    """Pooling of each stripe, or of the single feature; "gem": generalised mean, "gem_each" with a power a stripe."""
    global_pooling: Pooling = "max"
    """Pooling of the global branch, or of every global feature of another head."""
    neck: Neck = "bn"
    """From features to embeddings: "bn" is batch normalisation; "bnneck" the same without bias (Luo et al. 2019)."""
    embedding_relu: bool = False
    """Apply ReLU to the embeddings after the neck."""
    classifier_of: FeatureKind = "embeddings"
    """Input of the classifiers: the embeddings after the neck, or the "features" before it."""
    retrieval_of: FeatureKind = "embeddings"
    """What is compared in retrieval, exported and distilled: the embeddings, or the "features" before the neck."""
    feature_mask: Literal["none", "parts", "global", "all"] = "none"
    """Branches whose features are multiplied by a sigmoid gate computed from the pooled feature."""
    classifier: Literal["linear", "cosine"] = "linear"
    """"cosine" normalises the class weights to unit length, as margin softmax needs."""
    cosine_scale: float = Field(default=0.0, ge=0.0)
    """Length to which a cosine classifier scales embeddings; 0 = none, where a constant margin can collapse them."""
    classifier_bias: bool = False
    """Learnable bias in the classifiers."""
    pcb_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate of the feature map before the stripes (or the single feature)."""
    feature_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate of the input of a classifier."""
    part_feature_erasing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the rows of each stripe's feature map set to zero in training, as a random band; 0 = off."""
    global_feature_erasing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The same for the feature map of the global branch, or of the single feature."""
    random_drop_branches: int = Field(default=0, ge=0, le=1000)
    """Random draws, with replacement, of stripes without a gradient in a step; one stripe always has one; 0 = off."""
    update_max_loss_branch: bool = False
    """Only the stripe with the highest classification loss of the batch gets a gradient."""
    spectral_trans: float = Field(default=0.0, ge=0.0)
    """Temperature sigma of the spectral feature transform (Luo et al. 2018) in the batch of each device; 0 = off."""
    spectral_start_epoch: int = Field(default=0, ge=0)
    """Epochs at the start without the spectral transform."""
    spectral_start_accuracy: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Training accuracy of an epoch that starts the spectral transform, though not before spectral_start_epoch."""

    @property
    def branches(self) -> dict[str, int]:
        """The branches of the network by name, in the order of the embedding, and the parts of each."""
        if self.head != "pcb":
            return HEADS[self.head]
        if self.pcb_n_parts == 0:
            return {GLOBAL: 1}
        return {PARTS: self.pcb_n_parts} | ({GLOBAL: 1} if self.feature_global_dim else {})


class GeneratorOptions(Options):
    """The networks of the person generator."""

    img_h: Literal[64, 128, 256] = 64
    """Height of the generated images in pixels; the width is half of it."""
    input_dim: int = Field(default=128, ge=1)
    """Size of the generator's noise vector, which has unit length."""
    ngf: int = Field(default=16, ge=1)
    """Channels of the generator's largest feature map; the smallest has up to 16 times as many."""
    ndf: int = Field(default=32, ge=1)
    """Channels of the discriminator's largest feature map; the smallest has up to 8 times as many."""
    spectral_norm: bool = True
    """Spectral normalisation (Miyato et al. 2018) in every layer of the discriminator."""
    condition: str = ""
    """Checkpoint or run folder of a re-ID network whose embeddings condition the generator; "" = unconditional."""
    pretrain_snapshot_g: str = ""
    """Generator to start from, or to generate images with: a run folder or a file of train_gan; "" = none."""
    pretrain_snapshot_d: str = ""
    """Discriminator to start from: a run folder or a file of train_gan; "" = none."""


class ModelOptions(Options):
    """The keys of params.json that `models/` reads."""

    model_params: ModelParams = ModelParams()
    """Backbone and heads."""
    imagenet_pretrain: bool = False
    """Start the backbone from ImageNet weights."""
    pretrain_snapshot: str = ""
    """Checkpoint or state dict to start from; loaded after imagenet_pretrain; "" = none."""
