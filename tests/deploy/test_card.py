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


def test_a_card_comes_back_from_metadata_as_it_was() -> None:
    assert ModelCard.from_metadata(CARD.to_metadata(), "x.onnx") == CARD


def test_every_entry_is_json_under_a_name_of_ours() -> None:
    metadata = CARD.to_metadata()
    assert metadata["reid.img_h"] == "128"
    assert json.loads(metadata["reid.thresholds"])[1] == {"far": 0.01, "tar": 0.5, "distance": 0.2}
    assert all(name.startswith("reid.") for name in metadata)


def test_other_programs_entries_are_no_card_and_do_no_harm() -> None:
    assert ModelCard.from_metadata({"author": "x"}, "x.onnx") is None
    assert ModelCard.from_metadata({**CARD.to_metadata(), "author": "x"}, "x.onnx") == CARD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reid.format": "2"}, "format 2, this version reads format 1"),
        ({"reid.img_h": "0"}, r"reid\.img_h: .*greater than or equal to 1"),
        ({"reid.img_h": "}"}, "damaged"),
        ({"reid.colour_order": '"BGR"'}, r"reid\.colour_order"),
        ({"reid.new_key": "1"}, r"reid\.new_key"),
    ],
)
def test_a_card_that_cannot_be_read_is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ModelCard.from_metadata({**CARD.to_metadata(), **change}, "x.onnx")


def test_a_card_that_lacks_an_entry_is_refused() -> None:
    metadata = CARD.to_metadata()
    del metadata["reid.layout"]
    with pytest.raises(DataError, match=r"x\.onnx: its model card is damaged: reid\.layout"):
        ModelCard.from_metadata(metadata, "x.onnx")
