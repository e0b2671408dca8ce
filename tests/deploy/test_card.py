import json

import pytest

from deploy.card import ModelCard, Threshold
from utils.errors import DataError

CARD = ModelCard(
    img_h=128,
    img_w=64,
    resize=False,
    layout="nhwc",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bicubic",
    embedding_dim=24,
    branch_dims=(8, 8, 8),
    backbone="resnet_18",
    precision="fp32",
    opset=20,
    num_labels=3,
    labels_sha256="ab",
    commit="",
    torch="2.14",
    metrics={"mAP": 0.8},
    measured={},
    num_measured=0,
    thresholds=(Threshold(far=0.1, tar=0.9, distance=0.3), Threshold(far=0.01, tar=0.5, distance=0.2)),
    params={"img_h": 128, "quoted": 'a "word"', "none": None},
)


def test_a_card_survives_the_round_trip_through_metadata() -> None:
    metadata = CARD.to_metadata()
    assert metadata["reid.img_h"] == "128"
    assert json.loads(metadata["reid.thresholds"])[1] == {"far": 0.01, "tar": 0.5, "distance": 0.2}
    assert all(name.startswith("reid.") for name in metadata)
    assert ModelCard.from_metadata({**metadata, "author": "another program"}, "x.onnx") == CARD
    assert ModelCard.from_metadata({"author": "another program"}, "x.onnx") is None


def test_a_card_from_before_interpolation_was_a_setting_means_bilinear() -> None:
    metadata = CARD.to_metadata()
    del metadata["reid.interpolation"]
    assert ModelCard.from_metadata(metadata, "x.onnx") == CARD.model_copy(update={"interpolation": "bilinear"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reid.format": "2"}, "format 2, this version reads format 1"),
        ({"reid.img_h": "0"}, r"reid\.img_h: .*greater than or equal to 1"),
        ({"reid.img_h": "}"}, "damaged"),
        ({"reid.colour_order": '"BGR"'}, r"reid\.colour_order"),
        ({"reid.new_key": "1"}, r"reid\.new_key"),
        ({"reid.layout": None}, r"x\.onnx: .* damaged: reid\.layout"),
    ],
)
def test_an_invalid_card_is_refused(change: dict[str, str | None], message: str) -> None:
    metadata = {key: text for key, text in {**CARD.to_metadata(), **change}.items() if text is not None}
    with pytest.raises(DataError, match=message):
        ModelCard.from_metadata(metadata, "x.onnx")
