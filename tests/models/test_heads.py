"""Every head against a plain loop over its parts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.classifiers import LinearClassifier
from models.heads import BranchHead, Neck
from models.outputs import FeatureKind


def make_head(num_parts: int, dim: int = 4, *, bias: bool = False, **options: object) -> BranchHead:
    """A head for maps of 5 channels and 7 identities."""
    classifier = LinearClassifier(num_parts, dim or 5, 7, bias)
    return BranchHead(5, num_parts, dim, classifier, **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("classifier_of", ["features", "embeddings"])
@pytest.mark.parametrize("neck", ["none", "bn", "bnneck"])
def test_a_head_equals_a_list_of_separate_part_heads(neck: Neck, classifier_of: FeatureKind, bias: bool) -> None:
    torch.manual_seed(0)
    head = make_head(3, bias=bias, neck=neck, classifier_of=classifier_of)
    for parameter in head.classifier.parameters():
        nn.init.normal_(parameter)
    feature_map = torch.randn(8, 5, 6, 2)
    output = head(feature_map)
    assert output.scores.logits.shape == (3, 8, 7)
    weights = dict(head.named_parameters())
    for part in range(3):
        pooled = feature_map[:, :, 2 * part : 2 * part + 2].mean((2, 3))
        features = F.linear(pooled, weights["reduction"][part].T)
        embedding = features if neck == "none" else nn.BatchNorm1d(4)(features)
        classifier_bias = weights["classifier.bias"][part, 0] if bias else None
        classified = features if classifier_of == "features" else embedding
        logits = F.linear(classified, weights["classifier.weight"][part].T, classifier_bias)
        torch.testing.assert_close(output.features[part], features)
        torch.testing.assert_close(output.embeddings[part], embedding)
        torch.testing.assert_close(output.scores.logits[part], logits)


def test_a_bnneck_has_no_trained_bias() -> None:
    trained = {neck: dict(make_head(2, neck=neck).named_parameters()) for neck in ("none", "bn", "bnneck")}
    assert "bn.weight" not in trained["none"]
    for neck in ("bn", "bnneck"):
        assert trained[neck]["bn.weight"].requires_grad
        assert trained[neck]["bn.bias"].requires_grad == (neck == "bn")
        assert not trained[neck]["bn.bias"].any()


def test_a_part_trains_its_own_weights_only() -> None:
    head = make_head(3)
    head(torch.randn(8, 5, 6, 2)).scores.logits[1].square().sum().backward()
    for name in ("reduction", "classifier.weight"):
        gradient = head.get_parameter(name).grad
        assert gradient is not None
        assert gradient.flatten(1).abs().sum(1).gt(0).tolist() == [False, True, False]


def test_dropout_acts_in_training_only_and_where_it_is_set() -> None:
    feature_map = torch.ones(64, 5, 6, 2)
    on_map = make_head(1, neck="none", map_dropout=0.5)
    on_feature = make_head(1, neck="none", feature_dropout=0.5)
    assert len(on_map(feature_map).features[0].unique(dim=0)) > 1
    assert len(on_feature(feature_map).features[0].unique(dim=0)) == 1
    assert len(on_feature(feature_map).scores.logits[0].unique(dim=0)) > 1
    for head in (on_map.eval(), on_feature.eval()):
        assert len(head(feature_map).scores.logits[0].unique(dim=0)) == 1


def test_without_dimension_the_pooled_vector_is_the_embedding() -> None:
    head = make_head(2, dim=0, neck="none")
    feature_map = torch.randn(8, 5, 6, 2)
    output = head(feature_map)
    assert head.dim == 5
    assert head.reduction is None
    for part in range(2):
        torch.testing.assert_close(output.embeddings[part], feature_map[:, :, 3 * part : 3 * part + 3].mean((2, 3)))
    assert output.scores.logits.shape == (2, 8, 7)


def test_relu_cuts_the_embedding_and_not_the_feature() -> None:
    feature_map = torch.randn(8, 5, 6, 2)
    torch.manual_seed(0)
    plain = make_head(2)(feature_map)
    torch.manual_seed(0)
    cut = make_head(2, relu=True)(feature_map)
    torch.testing.assert_close(cut.features, plain.features)
    torch.testing.assert_close(cut.embeddings, plain.embeddings.clamp_min(0))
    assert (plain.embeddings < 0).any()


def test_a_mask_is_a_sigmoid_gate_of_the_pooled_vector() -> None:
    torch.manual_seed(0)
    head = make_head(2, neck="none", mask=True)
    assert head.mask is not None
    assert head.reduction is not None
    nn.init.normal_(head.mask.weight)
    nn.init.normal_(head.mask.bias)
    feature_map = torch.randn(8, 5, 6, 2)
    features = head(feature_map).features
    for part in range(2):
        pooled = feature_map[:, :, 3 * part : 3 * part + 3].mean((2, 3))
        gate = 1 / (1 + (-(pooled @ head.mask.weight[part] + head.mask.bias[part])).exp())
        torch.testing.assert_close(features[part], (pooled @ head.reduction[part]) * gate)


def test_erasing_changes_what_is_pooled_in_training_only() -> None:
    feature_map = torch.ones(64, 5, 6, 2)
    head = make_head(1, dim=0, neck="none", erasing=0.5)
    torch.testing.assert_close(head(feature_map).features, torch.full((1, 64, 5), 0.5))
    torch.testing.assert_close(head.eval()(feature_map).features, torch.ones(1, 64, 5))


@pytest.mark.parametrize("of", ["features", "embeddings"])
def test_the_spectral_transform_goes_through_the_same_classifier(of: FeatureKind) -> None:
    torch.manual_seed(0)
    head = make_head(2, classifier_of=of)
    nn.init.normal_(head.classifier.weight)
    feature_map = torch.randn(8, 5, 6, 2)
    assert head(feature_map).spectral is None
    output = head(feature_map, 0.3)
    assert output.spectral is not None
    for part in range(2):
        classified = getattr(output, of)[part]
        directions = classified / classified.norm(dim=1, keepdim=True)
        transition = (directions @ directions.T / 0.3).softmax(1)
        expected = transition @ classified @ head.classifier.weight[part]
        torch.testing.assert_close(output.spectral.scores.logits[part], expected, rtol=1e-4, atol=1e-5)
    output.spectral.scores.logits.square().sum().backward()
    assert head.classifier.weight.grad is not None
    assert head.reduction is not None
    assert head.reduction.grad is not None
