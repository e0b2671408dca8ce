"""The language models and losses share: what each branch of a network gives in training."""

from typing import NamedTuple

from torch import Tensor

PARTS = "parts"
"""Name of the branch of horizontal stripes."""
GLOBAL = "global"
"""Name of the branch that sees the whole feature map."""


class BranchOutput(NamedTuple):
    """What one branch gives in training. P is 1 for a global or single feature."""

    features: Tensor
    """(P, B, D) before normalisation; what a metric loss sees."""
    embeddings: Tensor
    """(P, B, D) after normalisation; what retrieval uses."""
    logits: Tensor
    """(P, B, N)."""
