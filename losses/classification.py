"""The classification loss that the params describe."""

from losses.arcface import arcface_logits
from losses.circle_softmax import circle_logits
from losses.loss import ClassificationLoss
from losses.options import ClassificationName, LossOptions
from losses.softmax import ApplyMargin, MarginSchedule, SoftmaxLoss, subtract_margin

MARGINS: dict[ClassificationName, ApplyMargin] = {
    "softmax": subtract_margin,
    "circle": circle_logits,
    "arcface": arcface_logits,
}
"""What the margin does to class scores, by the loss's name."""


def build_classification(options: LossOptions) -> ClassificationLoss | None:
    """The loss of one branch; None: it is off."""
    if not options.tri_loss_lambda_cls:
        return None
    margin = options.softmax_margin
    if isinstance(margin, tuple):
        margin = MarginSchedule(margin, options.softmax_margin_step)
    return SoftmaxLoss(
        options.tri_loss_lambda_cls,
        margin,
        options.focal_gamma,
        options.label_smoothing,
        options.label_smoothing_over,
        MARGINS[options.classification_loss],
    )
