"""The settings of the losses."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from models.outputs import FeatureKind
from utils.options import Options

SoftmaxMargin = Annotated[float, Field(ge=0.0, lt=1.0)]
ClassificationName = Literal["softmax", "circle", "arcface"]
MetricFeature = Literal[
    "global", "parts", "concat", "global2", "parts2", "concat2", "global3", "parts3", "concat3", "drop", "channels",
    "projected", "penultimate",
]  # fmt: skip
"""Branches of the heads; "concat" with their number: the concatenated parts of a branch "parts"; "penultimate": the
class token before the last block, with the head "clip"."""
Factor = Annotated[float, Field(gt=0.0)]


class Distillation(Options):
    """Knowledge distillation (Hinton et al. 2015) from a frozen teacher that was trained before."""

    teacher: str = ""
    """Checkpoint or run folder of the teacher, trained on the same identities; "" = none."""
    lambda_logits: float = Field(default=0.0, ge=0.0)
    """Weight of the Kullback-Leibler divergence of each part's class probabilities from the teacher's."""
    temperature: float = Field(default=4.0, gt=0.0)
    """Temperature that divides both logits before the softmax."""
    lambda_embedding: float = Field(default=0.0, ge=0.0)
    """Weight of the squared distance to the teacher's embedding, both of unit length; sizes may differ."""


class MetricLossOptions(Options):
    """A loss of features."""

    weight: float = Field(default=0.0, ge=0.0)
    """Weight of the loss; 0 = off."""
    on: tuple[MetricFeature, ...] = Field(default=("global",), min_length=1)
    """Features with this loss: the global (or single) one, each part, the concatenated parts; or by branch."""
    of: FeatureKind = "features"
    """Features before the neck, or "embeddings" after it."""
    weights: Mapping[str, Factor] = {}
    """Factors of the loss by feature, such as {"parts": 0.5}; 1 for features that are not named."""


class CirclePairs(MetricLossOptions):
    """Circle loss of the pairs of a batch (Sun et al. 2020)."""

    margin: float = Field(default=0.25, ge=0.0, lt=1.0)
    """Relaxation m: cosines of pairs should be above 1 - m for one identity, and below m for two."""
    scale: float = Field(default=128.0, gt=0.0)
    """Scale gamma."""


class MultiSimilarity(MetricLossOptions):
    """Multi-similarity loss with its mining of pairs (Wang et al. 2019)."""

    alpha: float = Field(default=2.0, gt=0.0)
    """Scale of the cosines of positive pairs."""
    beta: float = Field(default=50.0, gt=0.0)
    """Scale of the cosines of negative pairs."""
    threshold: float = 0.5
    """Cosine lambda that positive pairs should be above, and negative ones below."""
    margin: float = Field(default=0.1, ge=0.0)
    """Margin epsilon of the mining: how much easier than the hardest pair of the other kind a pair may be."""


class SupervisedContrastive(MetricLossOptions):
    """Supervised contrastive loss (Khosla et al. 2020)."""

    temperature: float = Field(default=0.1, gt=0.0)
    """Temperature that divides the cosines."""


class CenterLossOptions(MetricLossOptions):
    """Center loss (Wen et al. 2016), which needs another loss beside it; the usual weight is 0.0005."""

    rate: float = Field(default=0.5, gt=0.0, le=1.0)
    """Share by which a center follows its images in a step, whatever weight, optimizer and learning rate are."""


class LossOptions(Options):
    """The keys of params.json that `losses/` reads."""

    tri_loss_margin: Annotated[float, Field(ge=0.0)] | Literal["soft_margin"] = 0.0
    """Margin of the batch-hard triplet loss, or "soft_margin" for log(1 + exp(x)); 0 = no triplet loss."""
    tri_loss_lambda_tri: float = Field(default=1.0, ge=0.0)
    """Weight of the triplet loss."""
    tri_loss_lambda_cls: float = Field(default=1.0, ge=0.0)
    """Weight of the classification loss; 0 = off."""
    classification_loss: ClassificationName = "softmax"
    """"softmax": with a margin it is AM-softmax, also called CosFace; "circle": CircleSoftmax; or "arcface"."""
    classification_weights: Mapping[str, Factor] = {}
    """Factors of the classification loss by branch, such as {"parts": 0.5}; 1 for branches that are not named."""
    tri_loss_on: tuple[MetricFeature, ...] = Field(default=("global",), min_length=1)
    """Features with a triplet loss: the global (or single) one, each part, the concatenated parts; or by branch."""
    tri_loss_adaptive_weight: bool = False
    """Weight all positives and negatives by difficulty (Ristani and Tomasi 2018) instead of using the hardest."""
    tri_loss_of: FeatureKind = "features"
    """Features before the neck, or "embeddings" after it, for the triplet loss."""
    tri_loss_weights: Mapping[str, Factor] = {}
    """Factors of the triplet loss by feature, such as {"parts": 0.5}; 1 for features that are not named."""
    circle_pairs: CirclePairs = CirclePairs()
    """Circle loss of pairs."""
    multi_similarity: MultiSimilarity = MultiSimilarity()
    """Multi-similarity loss."""
    supervised_contrastive: SupervisedContrastive = SupervisedContrastive()
    """Supervised contrastive loss."""
    center_loss: CenterLossOptions = CenterLossOptions()
    """Center loss."""
    gather_embeddings: bool = False
    """Form triplets and pairs across the images of all devices; otherwise each device forms its own."""
    softmax_margin: SoftmaxMargin | tuple[SoftmaxMargin, ...] = 0.0
    """Margin m of the classification loss: on cosines, for "arcface" in radians; a list follows softmax_margin_step."""
    softmax_margin_step: int = Field(default=0, ge=0)
    """Iterations for which each margin of a list is used; the last one stays."""
    focal_gamma: float = Field(default=0.0, ge=0.0)
    """Exponent gamma of the focal loss (Lin et al. 2017); 0 = off."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the target probability that is spread evenly over identities."""
    label_smoothing_over: Literal["all", "others"] = "all"
    """Identities that it is spread over: "all", as torch does, or the "others" than the true one."""
    distillation: Distillation = Distillation()
    """Knowledge distillation from a teacher."""

    @property
    def triplet_is_on(self) -> bool:
        """Whether there is a triplet loss."""
        return self.tri_loss_margin != 0 and self.tri_loss_lambda_tri > 0

    @property
    def feature_losses(self) -> dict[str, str]:
        """The losses of features that are on: name by the key to switch it off."""
        losses = {"tri_loss_margin": "the triplet loss"} if self.triplet_is_on else {}
        for section in METRIC_SECTIONS:
            if getattr(self, section).weight > 0:
                losses[f"{section}.weight"] = f"the loss {section}"
        return losses

    @property
    def pair_losses(self) -> dict[str, str]:
        """Those that compare images of a batch and so need P x K sampling."""
        return {key: name for key, name in self.feature_losses.items() if key != "center_loss.weight"}


METRIC_SECTIONS = tuple(
    name for name, field in LossOptions.model_fields.items() if isinstance(field.default, MetricLossOptions)
)
"""The sections of the losses of features."""
