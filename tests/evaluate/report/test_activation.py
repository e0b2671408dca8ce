"""Activation maps: their values, their colours, and when there are none."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from evaluate.core.context import EvalContext
from evaluate.core.report.activation import activation, activation_section, overlay
from evaluate.core.report.blocks import ImageGroups, Note
from models.network import Embedder, build_network
from models.options import ModelParams
from tests.evaluate.report.conftest import blocks_of

TINY = ModelParams(model="resnet_18", feature_dim=8)
EMBEDDER = Embedder(build_network(TINY, 3)).eval()


def test_activation_is_the_scaled_length_of_the_channel_vector():
    feature_map = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    found = activation(feature_map, 4, 2)
    for image in range(2):
        lengths = [
            [math.sqrt(sum(float(feature_map[image, c, y, x]) ** 2 for c in range(3))) for x in range(2)]
            for y in range(4)
        ]
        low, high = min(map(min, lengths)), max(map(max, lengths))
        expected = [[(length - low) / (high - low) for length in row] for row in lengths]
        torch.testing.assert_close(found[image], torch.tensor(expected))


def test_activation_takes_the_size_of_the_image_and_stays_in_its_range():
    found = activation(torch.randn(1, 5, 3, 2, generator=torch.Generator().manual_seed(0)).half(), 48, 24)
    assert found.shape == (1, 48, 24)
    assert found.min() >= 0.0
    assert found.max() <= 1.0


def test_a_map_that_is_the_same_everywhere_is_zero():
    assert activation(torch.full((1, 2, 3, 3), 0.7), 6, 6).count_nonzero() == 0


def test_overlay_is_dark_where_nothing_answers_and_keeps_the_picture():
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    image[1] = 200
    found = overlay(image, np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert found.dtype == np.uint8
    assert (found[:, 1].sum(axis=1) > found[:, 0].sum(axis=1) + 100).all()
    assert (found[1].astype(int) - found[0] > 30).all()


def test_a_section_shows_query_first_wrong_and_first_right(retrieval, config):
    torch.manual_seed(0)
    net = Embedder(build_network(TINY, 3)).eval()
    section = activation_section(retrieval, [0, 5, 17], replace(config, network=net), "")
    (block,) = blocks_of(section, ImageGroups)
    assert len(block.groups) == 3
    for group in block.groups:
        verdicts = [image.verdict for image in group.images]
        assert verdicts[::2] == ["query", "wrong", "right"]
        assert verdicts[1::2] == ["plain"] * 3
        assert "1" in {image.above.removeprefix("rank ") for image in group.images}
        assert all(image.source.startswith("data:image/jpeg;base64,") for image in group.images)
        assert [(image.width, image.height) for image in group.images] == [(32, 64)] * 6
        pid = group.title.removeprefix("pid ")
        assert f"pid {pid}, camera" in group.images[4].hint
        assert f"pid {pid}, camera" not in group.images[2].hint
    # One image after the other gives the same pictures as all of them at once.
    one = config.evaluation_params.model_copy(update={"batch_size": 1})
    params = config.params.model_copy(update={"evaluation_params": one})
    (alone,) = blocks_of(activation_section(retrieval, [0], EvalContext(params, net), ""), ImageGroups)
    assert [image.hint for image in alone.groups[0].images] == [image.hint for image in block.groups[0].images]


@pytest.mark.parametrize(
    ("net", "missing", "reason"),
    [(None, "", "come from a file"), (nn.Identity(), "", "no feature map"), (EMBEDDER, "Gone.", "Gone.")],
)
def test_without_feature_map_or_pictures_a_sentence_says_why(retrieval, config, net, missing, reason):
    (note,) = blocks_of(activation_section(retrieval, [0], replace(config, network=net), missing), Note)
    assert reason in note.text
