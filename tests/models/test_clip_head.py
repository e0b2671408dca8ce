"""The branches of CLIP-ReID's baseline against timm's network, and the start of their projection."""

import logging
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from models.backbones import from_timm
from models.network import ReidNetwork, build_network
from models.options import ModelParams
from models.outputs import GLOBAL, select_images
from models.pretrained import load_snapshot

SIZE, DIM = (64, 32), 24


def build(model: str = "test_vit", size: tuple[int, int] = SIZE, dim: int = DIM) -> ReidNetwork:
    torch.manual_seed(0)
    raw = {"model": f"timm:{model}", "head": "clip", "feature_dim": dim, "neck": "bnneck", "retrieval_of": "features"}
    return build_network(ModelParams.model_validate(raw), 5, size)


def whole_network(bias: float = 0.0, dim: int = DIM) -> nn.Module:
    """timm's network of the images' size, with a last layer; CLIP's has a bias of zeros."""
    whole = timm.create_model("test_vit", img_size=SIZE, num_classes=dim).eval()
    head = whole.get_submodule("head")
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight)
    nn.init.constant_(head.bias, bias)
    return whole


def test_clips_vit_b_has_1280_features_and_the_size_of_its_image_encoder() -> None:
    with torch.device("meta"):
        network = build("vit_base_patch16_clip_quickgelu_224.openai", (224, 224), 512)
        output = build("vit_base_patch16_clip_quickgelu_224.openai", (256, 128), 512)(torch.empty(2, 3, 256, 128))
    # 86.2 million: the image encoder of ViT-B/16 in CLIP's files.
    assert sum(weight.numel() for weight in network.backbone.parameters()) == 86_192_640
    assert [tuple(branch.features.shape) for branch in output.values()] == [(1, 2, 768), (1, 2, 512)]
    penultimate = output[GLOBAL].penultimate
    assert penultimate is not None
    assert penultimate.shape == (1, 2, 768)
    assert network.embedding_dim == 1280
    assert "QuickGELU" in repr(network.backbone)


def test_the_features_are_the_class_token_its_projection_and_that_before_the_last_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = whole_network()
    monkeypatch.setattr(from_timm, "pretrained_state", lambda _: whole.state_dict())
    network = build().eval()
    network.backbone.load_imagenet()
    images = torch.randn(3, 3, *SIZE)
    inputs: list[torch.Tensor] = []
    last_block = list(whole.get_submodule("blocks").children())[-1]
    last_block.register_forward_hook(lambda _module, given, _output: inputs.append(given[0]))
    token = whole.forward_features(images)[:, 0]  # pyright: ignore[reportCallIssue]
    projected = whole(images)
    torch.testing.assert_close(network.embed(images), torch.cat([token, projected], dim=1))
    output = network(images)
    torch.testing.assert_close(output[GLOBAL].penultimate, inputs[0][None, :, 0])
    torch.testing.assert_close(output["projected"].features, projected[None])
    for name, branch in select_images(output, slice(1, 3)).items():
        expected = output[name].penultimate
        assert (branch.penultimate is None) == (expected is None)
        if expected is not None:
            assert torch.equal(branch.penultimate, expected[:, 1:])  # pyright: ignore[reportArgumentType]


def test_a_snapshot_with_timms_names_has_the_projection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, network = whole_network(), build()
    torch.save(whole.state_dict(), tmp_path / "timm.pth")
    load_snapshot(network, tmp_path / "timm.pth")
    assert torch.equal(network.backbone.state_dict()["projection.weight"], whole.state_dict()["head.weight"])
    assert "projection" not in caplog.text
    # And one of ours.
    torch.save(network.state_dict(), tmp_path / "ours.pth")
    again = build()
    nn.init.zeros_(again.backbone.get_parameter("projection.weight"))
    load_snapshot(again, tmp_path / "ours.pth")
    assert torch.equal(again.backbone.state_dict()["projection.weight"], whole.state_dict()["head.weight"])
    assert "projection" not in caplog.text


@pytest.mark.parametrize(("bias", "dim"), [(0.5, DIM), (0.0, DIM + 1)])
def test_a_classifier_or_a_projection_of_another_size_is_left_and_named(
    bias: float, dim: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.WARNING)
    state = whole_network(bias, dim).state_dict()
    monkeypatch.setattr(from_timm, "pretrained_state", lambda _: state)
    network, fresh = build(), build()
    network.backbone.load_imagenet()
    torch.save(state, tmp_path / "timm.pth")
    load_snapshot(network, tmp_path / "timm.pth")
    assert torch.equal(network.backbone.state_dict()["norm.weight"], state["norm.weight"])
    weight = network.backbone.state_dict()["projection.weight"]
    assert torch.equal(weight, fresh.backbone.state_dict()["projection.weight"])
    # Rows of about unit length, as CLIP starts.
    assert weight.square().sum(1).mean().sqrt() == pytest.approx(1, abs=0.1)
    assert caplog.text.count("no projection to 24 in the weights; left as initialised") == 2


def test_the_projection_is_trained_with_the_backbone() -> None:
    network = build()
    output = network(torch.randn(4, 3, *SIZE))
    torch.stack([branch.scores.logits.square().sum() for branch in output.values()]).sum().backward()
    assert {name for name, weight in network.named_parameters() if weight.grad is None} == {
        "branches.global.bn.bias",
        "branches.projected.bn.bias",
    }
    assert network.backbone.stages_above("projection.weight") == 0


@pytest.mark.parametrize("model", ["test_vit2", "test_efficientnet"])
def test_a_backbone_without_class_token_is_refused(model: str) -> None:
    with pytest.raises(ValueError, match="no class token"):
        build(model)
