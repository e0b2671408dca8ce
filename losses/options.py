"""The settings of the losses."""

from typing import Annotated, Literal

from pydantic import Field

from utils.options import Options

TripletFeature = Literal["global", "parts", "concat"]


class LossOptions(Options):
    """The keys of params.json that `losses/` reads."""

    tri_loss_margin: Annotated[float, Field(ge=0.0)] | Literal["soft_margin"] = 0.0
    """Margin of the batch-hard triplet loss, or "soft_margin" for log(1 + exp(x)); 0 = no triplet loss."""
    tri_loss_lambda_tri: float = Field(default=1.0, ge=0.0)
    """Weight of the triplet loss."""
    tri_loss_lambda_cls: float = Field(default=1.0, ge=0.0)
    """Weight of the classification loss; 0 = off."""
    tri_loss_on: tuple[TripletFeature, ...] = Field(default=("global",), min_length=1)
    """Features with a triplet loss: the global (or single) one, each part's own, the parts put end to end."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the target spread evenly over all identities."""
