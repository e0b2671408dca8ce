"""The re-ID network: one backbone, one or two branches on its feature map."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.backbones import ResNet, build_backbone
from models.heads import BranchHead
from models.options import ModelParams
from utils.branches import GLOBAL, PARTS, BranchOutput


class ReidNetwork(nn.Module):
    """Backbone and branches.

    Args:
        backbone: (B, 3, H, W) -> (B, C, h, w).
        branches: heads by name; their order is that of the embedding.
    """

    def __init__(self, backbone: ResNet, branches: dict[str, BranchHead]) -> None:
        super().__init__()
        self.backbone: ResNet = backbone
        self.branches = nn.ModuleDict(branches)
        self.embedding_dim = sum(branch.num_parts * branch.dim for branch in branches.values())

    def forward(self, images: Tensor) -> dict[str, BranchOutput]:
        """Normalised images (B, 3, H, W) -> output of every branch, by name; for training."""
        feature_map = self.backbone(images)
        return {name: branch(feature_map) for name, branch in self.branches.items()}

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> embeddings (B, D), all parts of all branches end to end; for retrieval."""
        feature_map = self.backbone(images)
        per_branch = [branch.embed(feature_map)[1].transpose(0, 1).flatten(1) for branch in self._heads()]
        return per_branch[0] if len(per_branch) == 1 else torch.cat(per_branch, dim=1)

    def classifiers(self) -> list[nn.Module]:
        """The classification layer of each branch."""
        return [branch.classifier for branch in self._heads()]

    def _heads(self) -> list[BranchHead]:
        return list(self.branches.values())  # pyright: ignore[reportReturnType]


class Embedder(nn.Module):
    """A network seen from outside: normalised images (B, 3, H, W) -> embeddings (B, D). What evaluation measures.

    Args:
        network: shared, not copied.
        labels: pid of each of the N classes in the order of the logits, the sorted pids of the training set; without
            them nobody can say what a class score is of.
    """

    def __init__(self, network: ReidNetwork, labels: Sequence[int] = ()) -> None:
        super().__init__()
        self.network = network
        self.labels = tuple(labels)

    @property
    def branch_dims(self) -> tuple[int, ...]:
        """Size of each part of each branch, in the order of the embedding; they add up to D."""
        heads: list[BranchHead] = list(self.network.branches.values())  # pyright: ignore[reportAssignmentType]
        return tuple(head.dim for head in heads for _ in range(head.num_parts))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> embeddings (B, D), not yet of unit length."""
        return self.network.embed(images)

    def logits(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> class scores of the whole network (B, N): the mean of all parts' logits.

        Their softmax is the normalised geometric mean of the parts' probabilities, the logarithmic opinion pool. Every
        part of every branch has the same weight, as in the classification loss; and since log-sum-exp is convex, the
        cross entropy of the pool is at most the mean of theirs, which is what training lowers.

        Source: Heskes 1998, "Selecting weighting factors in logarithmic opinion pools", NIPS 10.
        """
        outputs: dict[str, BranchOutput] = self.network(images)
        return torch.cat([branch.logits.float() for branch in outputs.values()]).mean(dim=0)


def build_network(options: ModelParams, num_classes: int) -> ReidNetwork:
    """The network that `model_params` describes, randomly initialised, for N = num_classes identities.

    With stripes, `feature_dim` is shared out among them, and `feature_global_dim` adds a global branch; without, one
    feature of the whole map is the global one.
    """
    backbone = build_backbone(options)

    def head(num_parts: int, dim: int, *, is_global: bool) -> BranchHead:
        return BranchHead(
            backbone.out_channels,
            num_parts,
            dim,
            num_classes,
            pooling=options.global_pooling if is_global else options.part_pooling,
            bn=options.global_bn if is_global else options.part_bn,
            bn_bias=options.bn_bias,
            classifier_bias=options.classifier_bias,
            map_dropout=0.0 if is_global else options.pcb_dropout,
            feature_dropout=options.feature_dropout,
        )

    if options.pcb_n_parts == 0:
        return ReidNetwork(backbone, {GLOBAL: head(1, options.feature_dim, is_global=False)})
    branches = {PARTS: head(options.pcb_n_parts, options.feature_dim // options.pcb_n_parts, is_global=False)}
    if options.feature_global_dim:
        branches[GLOBAL] = head(1, options.feature_global_dim, is_global=True)
    return ReidNetwork(backbone, branches)
