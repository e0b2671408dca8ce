"""The settings of the losses."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from utils.options import Options

SoftmaxMargin = Annotated[float, Field(ge=0.0, lt=1.0)]
ClassificationName = Literal["softmax", "circle", "arcface"]
MetricFeature = Literal["global", "parts", "concat"]


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
    classification_weights: Mapping[str, Annotated[float, Field(gt=0.0)]] = {}
    """Factors of the classification loss by branch, such as {"parts": 0.5}; 1 for branches that are not named."""
    tri_loss_on: tuple[MetricFeature, ...] = Field(default=("global",), min_length=1)
    """Features with a triplet loss: the global (or single) one, each part, the concatenated parts."""
    tri_loss_adaptive_weight: bool = False
    """Weight all positives and negatives by difficulty (Ristani and Tomasi 2018) instead of using the hardest."""
    gather_embeddings: bool = False
    """Form triplets across the images of all devices; otherwise each device forms its own."""
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
    def pair_losses(self) -> dict[str, str]:
        """The losses that compare images of a batch and so need P x K sampling: name by the key to switch it off."""
        return {"tri_loss_margin": "the triplet loss"} if self.triplet_is_on else {}
