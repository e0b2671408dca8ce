"""What model_params make of backbone and heads."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.classifiers import CosineClassifier, LinearClassifier
from models.network import Embedder, build_network
from models.options import ModelParams
from models.outputs import GLOBAL, PARTS, FeatureKind


def small(**options: object) -> ModelParams:
    return ModelParams.model_validate({"model": "resnet_18", "feature_dim": 32, **options})


@pytest.mark.parametrize(
    ("options", "branches", "dim"),
    [
        ({}, {GLOBAL: (1, 32)}, 32),
        ({"pcb_n_parts": 4}, {PARTS: (4, 8)}, 32),
        ({"pcb_n_parts": 2, "feature_global_dim": 16}, {PARTS: (2, 16), GLOBAL: (1, 16)}, 48),
        ({"pcb_n_parts": 2, "feature_global_dim": "pooled"}, {PARTS: (2, 16), GLOBAL: (1, 512)}, 544),
    ],
)
def test_model_params_decide_the_branches(
    options: dict[str, object], branches: dict[str, tuple[int, int]], dim: int
) -> None:
    network = build_network(small(**options), num_classes=5)
    images = torch.randn(2, 3, 64, 32)
    output = network(images)
    assert {
        name: (branch.embeddings.shape[0], branch.embeddings.shape[2]) for name, branch in output.items()
    } == branches
    assert all(branch.scores.logits.shape[1:] == (2, 5) for branch in output.values())
    embeddings = Embedder(network)(images)
    assert embeddings.shape == (2, dim) == (2, network.embedding_dim)
    # The parts first, then the global branch. In training mode both normalise by the batch.
    parts = [part for name in (PARTS, GLOBAL) if name in output for part in output[name].embeddings]
    torch.testing.assert_close(embeddings, torch.cat(parts, dim=1))


def test_switches_of_pooling_and_classifiers_reach_the_heads() -> None:
    options = small(pcb_n_parts=2, feature_global_dim=16, classifier_bias=True, part_pooling="gem")
    parts, whole = build_network(options, num_classes=5).heads()
    assert (parts.pooling.kind, whole.pooling.kind) == ("gem", "max")
    assert isinstance(parts.classifier, LinearClassifier)
    assert parts.classifier.bias is not None
    cosine = small(pcb_n_parts=2, feature_global_dim=16, classifier="cosine", cosine_scale=15.0)
    for classifier in build_network(cosine, num_classes=5).classifiers():
        assert isinstance(classifier, CosineClassifier)
        assert classifier.scale == 15.0


STRIPES = {"pcb_n_parts": 2, "feature_global_dim": 16}


@pytest.mark.parametrize("of", ["features", "embeddings"])
def test_retrieval_compares_the_side_of_the_neck_that_it_is_told_to(of: FeatureKind) -> None:
    network = build_network(small(**STRIPES, retrieval_of=of), num_classes=5)
    images = torch.randn(4, 3, 64, 32)
    output = network(images)
    compared = torch.cat([part for name in (PARTS, GLOBAL) for part in getattr(output[name], of)], dim=1)
    torch.testing.assert_close(Embedder(network)(images), compared)


def test_the_head_of_bag_of_tricks() -> None:
    """Luo et al. 2019, figure 2 and section 3.6: average pooling, batch normalisation without bias, a linear layer."""
    torch.manual_seed(0)
    network = build_network(small(feature_dim=0, neck="bnneck"), num_classes=50)
    images = torch.randn(4, 3, 64, 32)
    feature = network.backbone.maps(images)[0].mean((2, 3))
    normalised = (feature - feature.mean(0)) / (feature.var(0, unbiased=False) + 1e-5).sqrt()
    weight = network.get_parameter("branches.global.classifier.weight")[0]
    output = network(images)[GLOBAL]
    torch.testing.assert_close(output.features[0], feature)
    torch.testing.assert_close(output.embeddings[0], normalised, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.scores.logits[0], normalised @ weight, rtol=1e-4, atol=1e-4)
    assert weight.std().item() == pytest.approx(0.001, rel=0.05)
    trained = {name for name, parameter in network.branches.named_parameters() if parameter.requires_grad}
    assert trained == {"global.bn.weight", "global.classifier.weight"}


@pytest.mark.parametrize(
    ("options", "covers"),
    [
        ({}, True),
        ({"neck": "none", "embedding_relu": True, "classifier_of": "features"}, True),
        ({"classifier_of": "features"}, False),
    ],
)
def test_scores_before_the_neck_do_not_train_it(options: dict[str, object], covers: bool) -> None:
    network = build_network(small(**STRIPES, **options), num_classes=5)
    for classifier in network.classifiers():
        nn.init.normal_(classifier.weight)  # pyright: ignore[reportArgumentType]
    torch.cat(
        [branch.scores.logits for branch in network(torch.randn(4, 3, 64, 32)).values()]
    ).square().sum().backward()
    assert network.scores_cover is covers
    assert all(weight.grad is not None for weight in network.parameters()) is covers


@pytest.mark.parametrize(
    ("options", "masked"),
    [
        ({**STRIPES}, (False, False)),
        ({**STRIPES, "feature_mask": "all"}, (True, True)),
        ({**STRIPES, "feature_mask": "parts"}, (True, False)),
        ({**STRIPES, "feature_mask": "global"}, (False, True)),
        ({"feature_mask": "global"}, (True,)),
        ({"feature_mask": "all"}, (True,)),
    ],
)
def test_the_mask_is_on_the_branches_named(options: dict[str, object], masked: tuple[bool, ...]) -> None:
    assert tuple(head.mask is not None for head in build_network(small(**options), 5).heads()) == masked


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({**STRIPES, "part_feature_erasing": 0.5}, (0.5, 0.0)),
        ({**STRIPES, "global_feature_erasing": 0.3}, (0.0, 0.3)),
        ({"global_feature_erasing": 0.3}, (0.3,)),
    ],
)
def test_erasing_is_on_the_branches_named(options: dict[str, object], shares: tuple[float, ...]) -> None:
    assert tuple(head.erasing.share for head in build_network(small(**options), 5).heads()) == shares


def test_the_pooled_feature_itself_can_be_the_embedding() -> None:
    network = build_network(small(feature_dim=0), num_classes=5)
    assert Embedder(network)(torch.randn(2, 3, 64, 32)).shape == (2, 512) == (2, network.embedding_dim)
    stripes = build_network(small(feature_dim=0, pcb_n_parts=2), num_classes=5)
    assert Embedder(stripes).branch_dims == (512, 512)


def reached(network: nn.Module) -> set[str]:
    """Parts of a network that a backward pass has reached."""
    names = {name for name, weight in network.named_parameters() if weight.grad is not None and weight.grad.any()}
    return {name.rpartition(".")[0] for name in names}


def test_a_global_branch_with_its_own_stage_4_leaves_the_shared_one_alone() -> None:
    torch.manual_seed(0)
    network = build_network(small(**STRIPES, global_own_stage4=True), num_classes=5)
    output = network(torch.randn(4, 3, 64, 32))
    output[GLOBAL].features.square().sum().backward()
    touched = reached(network)
    assert any(name.startswith("backbone.layer4_global") for name in touched)
    assert "backbone.conv1" in touched
    assert not any(name.startswith(("backbone.layer4.", "branches.parts")) for name in touched)
    network.zero_grad()
    network(torch.randn(4, 3, 64, 32))[PARTS].features.square().sum().backward()
    assert not any(name.startswith(("backbone.layer4_global", "branches.global")) for name in reached(network))


def test_the_spectral_transform_acts_only_when_asked_and_never_in_retrieval() -> None:
    network = build_network(small(**STRIPES, spectral_trans=0.3), num_classes=5)
    images = torch.randn(4, 3, 64, 32)
    assert all(branch.spectral is None for branch in network(images).values())
    assert all(branch.spectral is not None for branch in network(images, spectral=True).values())
    without = build_network(small(**STRIPES), num_classes=5)
    assert all(branch.spectral is None for branch in without(images, spectral=True).values())
    without.load_state_dict(network.state_dict())
    torch.testing.assert_close(network.eval().embed(images), without.eval().embed(images))


BRANCHES = [
    ({}, (32,)),
    ({"pcb_n_parts": 4}, (8, 8, 8, 8)),
    ({"pcb_n_parts": 2, "feature_global_dim": 24}, (16, 16, 24)),
]


def perturbed(options: dict[str, int], num_classes: int) -> Embedder:
    """A network whose classifiers, which start close to zero, say something."""
    torch.manual_seed(0)
    network = build_network(small(classifier_bias=True, **options), num_classes)
    for classifier in network.classifiers():
        for parameter in classifier.parameters():
            nn.init.normal_(parameter)
    return Embedder(network, labels=range(num_classes)).eval()


@pytest.mark.parametrize(("options", "dims"), BRANCHES)
def test_an_embedder_tells_the_parts_of_its_embedding(options: dict[str, int], dims: tuple[int, ...]) -> None:
    embedder = perturbed(options, num_classes=5)
    assert embedder.branch_dims == dims
    images = torch.randn(3, 3, 64, 32)
    parts = [part for branch in embedder.network(images).values() for part in branch.embeddings]
    for own, part in zip(embedder(images).split(list(dims), dim=1), parts, strict=True):
        torch.testing.assert_close(own, part)


@pytest.mark.parametrize(("options", "dims"), BRANCHES)
def test_class_scores_pool_the_opinions_of_all_parts(options: dict[str, int], dims: tuple[int, ...]) -> None:
    embedder = perturbed(options, num_classes=5)
    images = torch.randn(6, 3, 64, 32)
    scores = embedder.logits(images)
    assert scores.shape == (6, 5)
    opinions = [part.softmax(1) for branch in embedder.network(images).values() for part in branch.scores.logits]
    assert len(opinions) == len(dims)
    pooled = torch.ones(6, 5)
    for opinion in opinions:
        pooled *= opinion ** (1 / len(opinions))
    torch.testing.assert_close(scores.softmax(1), pooled / pooled.sum(1, keepdim=True))
    labels = torch.arange(6) % 5
    mean_loss = torch.stack([F.cross_entropy(opinion.log(), labels) for opinion in opinions]).mean()
    assert F.cross_entropy(scores, labels) <= mean_loss + 1e-6


def test_class_scores_are_the_same_however_images_are_batched() -> None:
    embedder = perturbed({"pcb_n_parts": 2}, num_classes=5)
    images = torch.randn(4, 3, 64, 32)
    one_by_one = torch.cat([embedder.logits(image[None]) for image in images])
    torch.testing.assert_close(one_by_one, embedder.logits(images), rtol=1e-4, atol=1e-3)


def test_an_embedder_carries_the_labels_it_is_given() -> None:
    network = build_network(small(), num_classes=3)
    assert Embedder(network).labels == ()
    assert Embedder(network, [2, 5, 9]).labels == (2, 5, 9)
    assert not [name for name in Embedder(network, [2, 5, 9]).state_dict() if "label" in name]


def test_every_trained_weight_is_reached_by_the_losses_of_all_branches() -> None:
    torch.manual_seed(0)
    options = small(**STRIPES, global_own_stage4=True, feature_mask="all", part_pooling="gem", global_pooling="gem")
    network = build_network(options, num_classes=5)
    for classifier in network.classifiers():
        nn.init.normal_(classifier.weight)  # pyright: ignore[reportArgumentType]
    sum(branch.scores.logits.square().sum() for branch in network(torch.randn(4, 3, 64, 32)).values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()] == []
