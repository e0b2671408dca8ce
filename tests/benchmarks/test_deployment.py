import json
from pathlib import Path

import pytest
import torch

from benchmarks import deployment
from benchmarks.deployment import FAMILIES, Family, main
from config.params import Params
from models.network import build_network


@pytest.mark.slow
def test_every_part_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--model", "resnet_18", "--size", "64", "32", "--batch", "2", "--batches", "2"]
    main([*size, "--rounds", "2", "--out", str(tmp_path / "out")])
    (rows,) = json.loads((tmp_path / "out.json").read_text())["tables"].values()
    exports = [f"{runtime} {precision}" for precision in ("fp32", "int8") for runtime in ("onnx", "openvino")]
    names = ["torch eager", *(f"predictor, {name}" for name in ("checkpoint", *exports))]
    assert [row[""] for row in rows] == names
    assert rows[0]["times torch eager"] == [1.0, 1.0]
    assert all(len(row["images/s"]) == 2 and min(row["images/s"]) > 0 for row in rows)
    assert (tmp_path / "out.md").read_text() in capsys.readouterr().out


@pytest.mark.slow
def test_architectures_are_compared_with_the_first_and_with_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"one": Family({"model": "osnet_x0_25", "feature_dim": 8}, (64, 32))}
    vit = {"model": "timm:test_vit", "head": "clip", "feature_dim": 8}
    monkeypatch.setattr(deployment, "FAMILIES", {**first, "two": Family(vit, (64, 32)), "unused": Family({})})
    main(["--families", "two", "--batch", "2", "--batches", "1", "--rounds", "2", "--out", str(tmp_path / "out")])
    (rows,) = json.loads((tmp_path / "out.json").read_text())["tables"].values()
    assert [(row[""], row["size"], row["embedding"]) for row in rows] == [
        ("one", "64 x 32", "8"),
        ("two", "64 x 32", "72"),
    ]
    assert rows[0]["times one"] == [1.0, 1.0]
    assert all(len(row["images/s"]) == 2 and min(row["images/s"]) > 0 for row in rows)
    assert all(float(row["difference"]) < 1e-4 for row in rows)
    assert 0.1 < rows[0]["million parameters"] < 0.2


@pytest.mark.parametrize("name", FAMILIES)
def test_each_architecture_can_be_built_for_its_images(name: str) -> None:
    family = FAMILIES[name]
    height, width = family.size
    params = Params.model_validate({"img_h": height, "img_w": width, "model_params": family.model_params})
    with torch.device("meta"):
        network = build_network(params.model_params, 8, family.size).eval()
        assert network.embed(torch.empty(1, 3, height, width)).shape == (1, network.embedding_dim)


@pytest.mark.parametrize(
    "wrong", [["--rounds", "0"], ["--batch", "0"], ["--model", "vgg"], ["--families", "VGG"], ["--size", "0", "64"]]
)
def test_impossible_arguments_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(wrong)
    assert exit_info.value.code == 2
