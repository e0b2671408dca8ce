import math

import pytest
import torch

from models.classifiers import CosineClassifier, LinearClassifier


@pytest.mark.parametrize("scale", [0.0, 15.0])
def test_a_cosine_logit_is_the_scale_times_the_cosine_to_the_class(scale: float) -> None:
    torch.manual_seed(0)
    classifier = CosineClassifier(2, 3, 4, scale)
    embeddings = torch.randn(2, 5, 3)
    logits, scales = classifier(embeddings)
    assert scales is not None
    assert scales.shape == (2, 5)
    for part in range(2):
        for image in range(5):
            own = embeddings[part, image].tolist()
            norm = math.sqrt(sum(value**2 for value in own))
            length = scale or norm
            assert scales[part, image].item() == pytest.approx(length, rel=1e-5)
            for label in range(4):
                of_class = classifier.weight[part, :, label].tolist()
                dot = sum(a * b for a, b in zip(own, of_class, strict=True))
                cosine = dot / norm / math.sqrt(sum(value**2 for value in of_class))
                assert logits[part, image, label].item() == pytest.approx(length * cosine, rel=1e-4, abs=1e-5)


def test_the_length_of_class_weights_means_nothing_to_a_cosine() -> None:
    classifier = CosineClassifier(1, 3, 4, 15.0)
    embeddings = torch.randn(1, 5, 3)
    before = classifier(embeddings).logits
    classifier.weight.data.mul_(7)
    torch.testing.assert_close(classifier(embeddings).logits, before)


def test_a_linear_classifier_has_no_scale_and_starts_undecided() -> None:
    torch.manual_seed(0)
    logits, scale = LinearClassifier(2, 64, 10, bias=True)(torch.randn(2, 5, 64))
    assert scale is None
    assert logits.softmax(-1).max() < 0.11
