"""A loss defined in a single file, with parameters of its own, trains a network like those of the criterion."""

import pytest
import torch
from torch import Tensor, nn

from config.params import Params
from engine.optim import build_optimizer
from losses.criterion import Criterion, build_criterion
from losses.loss import Loss, Losses, LossInputs, OnFeatures
from losses.options import LossOptions
from models.network import build_network
from models.options import ModelParams

LABELS = torch.tensor([0, 0, 1, 1])


class CenterLoss(nn.Module):
    """Squared distance of each feature to the centre of its identity, which is learnt.

    Source: Wen et al. 2016, "A discriminative feature learning approach for deep face recognition", ECCV.
    """

    def __init__(self, num_classes: int, num_parts: int, dim: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(num_parts, num_classes, dim))

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (P, B, D) and labels (B,) -> mean over parts and images."""
        distances = (features - self.centers[:, labels]).square().sum(-1)
        return distances.mean(), {"distance": distances.detach().sqrt().mean()}


class NormLoss(Loss):
    """Squared length of the global embedding."""

    def __init__(self) -> None:
        super().__init__("norm", ["embeddings"])

    def forward(self, inputs: LossInputs) -> Losses:
        """(B, D) -> "norm"."""
        return Losses({"norm": inputs.output["global"].embeddings.square().sum(-1).mean()}, {})


def test_a_new_loss_is_computed_logged_and_trained() -> None:
    torch.manual_seed(0)
    network = build_network(ModelParams(model="resnet_18", feature_dim=8, pcb_n_parts=2, feature_global_dim=4), 2)
    sizes = network.sizes
    assert (sizes.num_classes, sizes.branches, sizes.embedding_dim) == (2, {"parts": (2, 4), "global": (1, 4)}, 12)
    usual = build_criterion(LossOptions(tri_loss_margin=0.3))
    centers = {name: CenterLoss(sizes.num_classes, *sizes.branches[name]) for name in ("global", "parts")}
    criterion = Criterion([*usual.values(), OnFeatures("center", centers), NormLoss()])  # pyright: ignore[reportArgumentType]
    optimizer = build_optimizer(Params.model_validate({"lr": {"fc_lr": 0.5}}), network, criterion)
    output = network(torch.randn(4, 3, 64, 32))
    losses, metrics = criterion(output, LABELS)
    assert list(losses) == [
        "softmax_parts",
        "softmax_global",
        "triplet_global",
        "center_global",
        "center_parts",
        "norm",
    ]
    assert {"center_global_distance", "center_parts_distance"} < metrics.keys()
    # All centres are zero at the start.
    features = output["parts"].features
    assert losses["center_parts"].item() == pytest.approx(features.square().sum(-1).mean().item())
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    moved = [parameter for name, parameter in criterion.named_parameters() if name.startswith("center.losses.")]
    assert len(moved) == 2
    assert all(parameter.abs().sum() > 0 for parameter in moved)


def test_losses_must_differ_in_names_and_in_those_of_their_values() -> None:
    with pytest.raises(ValueError, match="different names, got norm, norm"):
        Criterion([NormLoss(), NormLoss()])
    other = NormLoss()
    other.name = "other"
    network = build_network(ModelParams(model="resnet_18", feature_dim=8), 2)
    with pytest.raises(ValueError, match="two losses return norm"):
        Criterion([NormLoss(), other])(network(torch.randn(4, 3, 64, 32)), LABELS)
