"""One contract over every backbone, and every head against a plain loop over its parts."""

from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.backbones import DEPTHS, build_backbone
from models.geometry import feature_map_size
from models.heads import BranchHead, pool_stripes
from models.network import Embedder, build_network
from models.options import ModelParams
from utils.branches import GLOBAL, PARTS

NAMES = get_args(ModelParams.model_fields["model"].annotation)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_gives_the_map_that_geometry_foretells(name: str, stride: int) -> None:
    options = ModelParams.model_validate({"model": name, "last_conv_stride": stride})
    with torch.device("meta"):
        backbone = build_backbone(options)
        for height, width in ((256, 128), (384, 128), (100, 50), (33, 17)):
            feature_map = backbone(torch.empty(2, 3, height, width))
            assert feature_map.shape == (2, backbone.out_channels, *feature_map_size(height, width, stride))


@pytest.mark.parametrize("name", NAMES)
def test_backbone_weights_are_named_as_torchvision_names_them(name: str) -> None:
    from torchvision.models import get_model

    with torch.device("meta"):
        expected = get_model(name.replace("_", "")).state_dict()
        own = build_backbone(ModelParams.model_validate({"model": name})).state_dict()
    shapes = {key: value.shape for key, value in expected.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in own.items()} == shapes


def test_every_documented_backbone_can_be_built() -> None:
    assert set(NAMES) == DEPTHS.keys()


def test_zero_init_makes_each_block_its_shortcut() -> None:
    for module in build_backbone(ModelParams(model="resnet_18", zero_init_residual=True)).modules():
        if hasattr(module, "bn2"):
            assert module.bn2.weight.abs().sum() == 0  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 6])
def test_stripes_are_pooled_one_by_one(num_parts: int, pooling: str) -> None:
    feature_map = torch.randn(2, 5, 6, 4, generator=torch.Generator().manual_seed(0))
    pooled = pool_stripes(feature_map, num_parts, pooling)  # pyright: ignore[reportArgumentType]
    rows = 6 // num_parts
    for part in range(num_parts):
        stripe = feature_map[:, :, part * rows : (part + 1) * rows].flatten(2)
        expected = stripe.mean(2) if pooling == "avg" else stripe.amax(2)
        torch.testing.assert_close(pooled[part], expected)


def test_parts_that_do_not_divide_the_map_are_an_error() -> None:
    with pytest.raises(ValueError, match="4 parts do not divide a feature map of height 6"):
        pool_stripes(torch.zeros(1, 1, 6, 2), 4, "avg")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bn", [True, False])
def test_a_head_equals_a_list_of_separate_part_heads(bn: bool, bias: bool) -> None:
    torch.manual_seed(0)
    head = BranchHead(5, num_parts=3, dim=4, num_classes=7, bn=bn, classifier_bias=bias)
    nn.init.normal_(head.classifier.weight)
    if head.classifier.bias is not None:
        nn.init.normal_(head.classifier.bias)
    feature_map = torch.randn(8, 5, 6, 2)
    output = head(feature_map)
    assert output.logits.shape == (3, 8, 7)
    for part in range(3):
        pooled = feature_map[:, :, 2 * part : 2 * part + 2].mean((2, 3))
        features = F.linear(pooled, head.reduction[part].T)
        embedding = nn.BatchNorm1d(4)(features) if bn else features
        classifier_bias = None if head.classifier.bias is None else head.classifier.bias[part, 0]
        logits = F.linear(embedding, head.classifier.weight[part].T, classifier_bias)
        torch.testing.assert_close(output.features[part], features)
        torch.testing.assert_close(output.embeddings[part], embedding)
        torch.testing.assert_close(output.logits[part], logits)


def test_a_part_trains_its_own_weights_only() -> None:
    head = BranchHead(5, num_parts=3, dim=4, num_classes=7)
    head(torch.randn(8, 5, 6, 2)).logits[1].square().sum().backward()
    for weight in (head.reduction, head.classifier.weight):
        assert weight.grad is not None
        assert weight.grad.flatten(1).abs().sum(1).gt(0).tolist() == [False, True, False]


def test_dropout_acts_in_training_only_and_where_it_is_set() -> None:
    feature_map = torch.ones(64, 5, 6, 2)
    on_map = BranchHead(5, 1, 4, 7, bn=False, map_dropout=0.5)
    on_feature = BranchHead(5, 1, 4, 7, bn=False, feature_dropout=0.5)
    assert len(on_map(feature_map).features[0].unique(dim=0)) > 1
    assert len(on_feature(feature_map).features[0].unique(dim=0)) == 1
    assert len(on_feature(feature_map).logits[0].unique(dim=0)) > 1
    for head in (on_map.eval(), on_feature.eval()):
        assert len(head(feature_map).logits[0].unique(dim=0)) == 1


def small(**options: object) -> ModelParams:
    return ModelParams.model_validate({"model": "resnet_18", "feature_dim": 32, **options})


@pytest.mark.parametrize(
    ("options", "branches", "dim"),
    [
        ({}, {GLOBAL: (1, 32)}, 32),
        ({"pcb_n_parts": 4}, {PARTS: (4, 8)}, 32),
        ({"pcb_n_parts": 2, "feature_global_dim": 16}, {PARTS: (2, 16), GLOBAL: (1, 16)}, 48),
    ],
)
def test_model_params_decide_the_branches(
    options: dict[str, int], branches: dict[str, tuple[int, int]], dim: int
) -> None:
    network = build_network(small(**options), num_classes=5)
    images = torch.randn(2, 3, 64, 32)
    output = network(images)
    assert {
        name: (branch.embeddings.shape[0], branch.embeddings.shape[2]) for name, branch in output.items()
    } == branches
    assert all(branch.logits.shape[1:] == (2, 5) for branch in output.values())
    embeddings = Embedder(network)(images)
    assert embeddings.shape == (2, dim) == (2, network.embedding_dim)


def test_the_embedding_is_what_training_saw_put_end_to_end() -> None:
    network = build_network(small(pcb_n_parts=2, feature_global_dim=16), num_classes=5).eval()
    images = torch.randn(3, 3, 64, 32)
    output = network(images)
    expected = torch.cat([*output[PARTS].embeddings, *output[GLOBAL].embeddings], dim=1)
    torch.testing.assert_close(network.embed(images), expected)


def test_switches_of_normalisation_and_bias_reach_the_heads() -> None:
    options = small(
        pcb_n_parts=2, feature_global_dim=16, part_bn=False, bn_bias=False, classifier_bias=True, part_pooling="max"
    )
    network = build_network(options, num_classes=5)
    parts, whole = network.branches[PARTS], network.branches[GLOBAL]
    assert isinstance(parts, BranchHead)
    assert isinstance(whole, BranchHead)
    assert parts.bn is None
    assert parts.pooling == whole.pooling == "max"
    assert whole.bn is not None
    assert not whole.bn.bias.requires_grad
    assert parts.classifier.bias is not None


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
    opinions = [part.softmax(1) for branch in embedder.network(images).values() for part in branch.logits]
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
