"""Metrics of a training batch that belong to no loss."""

import torch

from losses.loss import Loss, Losses, LossInputs


class BatchMetrics(Loss):
    """Accuracy of the classifiers, and what the spectral transform leaves in place.

    "accuracy" is the share of images and parts whose identity has the highest class score; "spectral_BRANCH_diagonal"
    the mean weight of an embedding in its own transform, for each branch with a spectral transform.
    """

    def __init__(self) -> None:
        super().__init__("batch_metrics")

    def forward(self, inputs: LossInputs) -> Losses:
        """Metrics only."""
        branches = inputs.output
        logits = torch.cat([branch.scores.logits.detach() for branch in branches.values()])
        metrics = {"accuracy": (logits.argmax(-1) == inputs.labels).float().mean()}
        for name, branch in branches.items():
            if branch.spectral is not None:
                metrics[f"spectral_{name}_diagonal"] = branch.spectral.diagonal.detach()
        return Losses({}, metrics)
