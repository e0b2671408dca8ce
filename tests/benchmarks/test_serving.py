import re
from pathlib import Path

import pytest

from benchmarks.serving import main, pictures
from config.params import Params
from models.network import build_network
from utils.checkpoint import Checkpoint, save_checkpoint

OPTIONS = {"img_h": 64, "img_w": 32, "model_params": {"model": "resnet_18", "feature_dim": 8, "last_conv_stride": 2}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A network that nobody trained."""
    params = Params.model_validate(OPTIONS)
    path = tmp_path / "model.pth"
    weights = build_network(params.model_params, 2).state_dict()
    save_checkpoint(path, Checkpoint(weights, params.model_dump(mode="json"), [1, 2], {}))
    return path


def test_the_service_is_compared_and_holds_out(checkpoint: Path, tmp_path: Path) -> None:
    to_file = ["--model", str(checkpoint), "--out", str(tmp_path / "serving.md")]
    main([*to_file, "--rounds", "1", "--images", "8", "--clients", "2"])
    main([*to_file, "--load", "0.15"])
    text = (tmp_path / "serving.md").read_text()
    assert (
        len(re.findall(r"^\| (predictor alone|service, 2 clients) \| \d+\.\d \| .* to .* \|$", text, flags=re.M)) == 2
    )
    assert re.search(r"The service is -?\d+\.\d% slower", text)
    assert " 0 wrong answers. The service runs on." in text
    for what in ("embedded", "searched", "malformed refused", "oversized refused", "bombs refused"):
        assert re.search(rf"[1-9][\d,]* {what}", text)


def test_pictures_are_different_images() -> None:
    assert len(set(pictures(5, 64, 32))) == 5


@pytest.mark.parametrize("wrong", [["--clients", "0"], ["--load", "61"], ["--load", "-1"]])
def test_impossible_numbers_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--model", "x.onnx", *wrong])
    assert exit_info.value.code == 2
