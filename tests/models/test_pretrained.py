import logging
from pathlib import Path

import pytest
import torch

from models.network import ReidNetwork, build_network
from models.options import ModelParams
from models.pretrained import load_snapshot
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import DataError


def network(seed: int, num_classes: int = 3, **options: object) -> ReidNetwork:
    torch.manual_seed(seed)
    return build_network(ModelParams.model_validate({"model": "resnet_18", "feature_dim": 8, **options}), num_classes)


def test_a_bare_state_dict_with_torchvision_names_fills_the_backbone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = network(0), network(1)
    # A partial file in half precision, with torchvision's classifier beside it.
    state = {key: value.half() for key, value in source.backbone.state_dict().items() if not key.startswith("layer4.1")}
    torch.save({**state, "fc.weight": torch.zeros(1000, 512)}, tmp_path / "weights.pth")
    with caplog.at_level(logging.INFO):
        load_snapshot(target, tmp_path / "weights.pth")
    name = "backbone.layer3.0.conv1.weight"
    loaded = target.state_dict()[name]
    torch.testing.assert_close(loaded, source.state_dict()[name], rtol=1e-3, atol=1e-3)
    assert loaded.dtype == torch.float32
    messages = " ".join(record.getMessage() for record in caplog.records)
    assert "backbone.layer4.1.conv1.weight" in messages
    assert "branches.global.reduction" in messages
    assert "fc.weight" in messages


def test_a_checkpoint_for_other_identities_gives_all_but_the_classifier(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = network(0, num_classes=3), network(1, num_classes=5)
    before = target.classifiers()[0].weight.clone()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    save_checkpoint(tmp_path / "model.pth", Checkpoint(source.state_dict(), {}, [1, 2, 3], {}))
    load_snapshot(target, tmp_path / "model.pth")
    assert torch.equal(target.branches["global"].reduction, source.branches["global"].reduction)  # pyright: ignore[reportArgumentType]
    assert torch.equal(target.classifiers()[0].weight, before)  # pyright: ignore[reportArgumentType]
    assert "branches.global.classifier.weight (1, 8, 3), here (1, 8, 5)" in caplog.text


def test_a_file_in_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    torch.save({"something.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="none of its 1 tensors fits"):
        load_snapshot(network(0), tmp_path / "other.pth")


def test_imagenet_weights_are_taken_from_torch_hub_or_their_absence_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # Nothing listens on this port, so a download fails at once whether or not there is a network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    backbone = network(0).backbone
    with pytest.raises(DataError, match=r"resnet18-\w+\.pth(.|\n)*and put it at .*checkpoints"):
        backbone.load_imagenet()


def test_imagenet_weights_fill_the_whole_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(3)
    state = resnet18().state_dict()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    name = ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    target = tmp_path / "hub" / "checkpoints" / name
    torch.save(state, target)
    backbone = network(0).backbone
    backbone.load_imagenet()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key
    with_own_stage = network(0, pcb_n_parts=2, feature_global_dim=8, global_own_stage4=True).backbone
    with_own_stage.load_imagenet()
    for key, value in with_own_stage.state_dict().items():
        assert torch.equal(value, state[key.replace("layer4_global", "layer4")]), key


def test_a_snapshot_without_global_last_stage_fills_it_with_the_shared_one(tmp_path: Path) -> None:
    source = network(0, pcb_n_parts=2, feature_global_dim=8)
    target = network(1, pcb_n_parts=2, feature_global_dim=8, global_own_stage4=True)
    save_checkpoint(tmp_path / "model.pth", Checkpoint(source.state_dict(), {}, [1, 2, 3], {}))
    load_snapshot(target, tmp_path / "model.pth")
    name = "backbone.layer4.0.conv1.weight"
    loaded = target.state_dict()
    assert torch.equal(loaded[name], source.state_dict()[name])
    assert torch.equal(loaded["backbone.layer4_global.0.conv1.weight"], source.state_dict()[name])
