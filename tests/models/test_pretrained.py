import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model

from models.backbones.from_timm import LIKE_TORCHVISION
from models.network import ReidNetwork, build_network
from models.options import ModelParams
from models.pretrained import load_snapshot
from tests.foreign.fastreid import FastReidBaseline, FastReidMGN
from tests.foreign.solider import Solider
from tests.foreign.transformers import TransReID
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import DataError, ParamsError


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


def test_weights_of_another_backbone_are_refused_though_some_fit(tmp_path: Path) -> None:
    torch.save(network(0).backbone.state_dict(), tmp_path / "resnet18.pth")
    target = network(1, model="resnet_50")
    before = target.state_dict()["backbone.conv1.weight"].clone()
    with pytest.raises(DataError, match=r"tensors have other shapes than the backbone of model_params.model: .*layer1"):
        load_snapshot(target, tmp_path / "resnet18.pth")
    assert torch.equal(target.state_dict()["backbone.conv1.weight"], before)


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


def timm_network(name: str, **options: object) -> ReidNetwork:
    return network(1, 3, model=f"timm:{name}", last_conv_stride=2, **options)


def trained(model: nn.Module) -> nn.Module:
    """With normalisations that differ from those at the start."""
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                assert values is not None
                nn.init.uniform_(values, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(("name", "theirs"), LIKE_TORCHVISION.items())
def test_a_file_with_torchvisions_names_gives_timms_network_the_same_features(
    name: str, theirs: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trained(get_model(theirs))
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    target = timm_network(name, global_own_stage4=True, pcb_n_parts=2, feature_global_dim=4)
    load_snapshot(target, tmp_path / "weights.pth")
    # All but the heads is loaded; the classifier has no place.
    assert "left as initialised: branches." in caplog.text
    assert "left as initialised: backbone." not in caplog.text
    images = torch.randn(2, 3, 64, 32)
    for feature_map in target.eval().backbone.maps(images):
        torch.testing.assert_close(feature_map, whole.features(images), rtol=1e-5, atol=1e-5)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_file_with_timms_names_in_half_precision_fills_the_backbone(ending: str, tmp_path: Path) -> None:
    whole = trained(timm.create_model("tf_efficientnet_lite0", num_classes=5))
    state = {key: value.half() if value.dim() == 4 else value for key, value in whole.state_dict().items()}
    path = tmp_path / f"weights.{ending}"
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    whole.load_state_dict(state)
    target = timm_network("tf_efficientnet_lite0").eval()
    load_snapshot(target, path)
    assert {parameter.dtype for parameter in target.parameters()} == {torch.float32}
    images = torch.randn(2, 3, 64, 32)
    expected = whole.forward_features(images)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(target.backbone(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "key", "words"),
    [
        ("regnetx_002", "trunk_output.block1.weight", "trunk_output.block1.weight is a name of torchvision's"),
        ("mobilenetv2_100", "features.0.0.weight", "not those of its mobilenet_v2"),
    ],
)
def test_names_of_torchvision_that_cannot_be_translated_are_one_message(
    name: str, key: str, words: str, tmp_path: Path
) -> None:
    torch.save({key: torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(DataError, match=rf"pretrain_snapshot: .*weights.pth: .*{words}"):
        load_snapshot(timm_network(name), tmp_path / "weights.pth")


def test_a_damaged_safetensors_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"weights.safetensors: cannot be read as a safetensors file"):
        load_snapshot(network(0), tmp_path / "weights.safetensors")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of Hugging Face's hub, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def cache(hub: Path, state: dict[str, torch.Tensor]) -> None:
    """Put weights where the hub's library keeps those of test_resnet."""
    folder = hub / "models--timm--test_resnet.r160_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    save_file(state, folder / "snapshots" / "abc" / "model.safetensors")


def test_timms_weights_are_taken_from_its_cache(hub: Path) -> None:
    whole = trained(timm.create_model("test_resnet"))
    cache(hub, whole.state_dict())
    backbone = timm_network("test_resnet.r160_in1k").backbone.eval()
    backbone.load_imagenet()
    images = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(backbone(images), whole.forward_features(images))  # pyright: ignore[reportCallIssue]


def test_timms_weights_that_are_not_there_are_explained(hub: Path) -> None:
    with pytest.raises(DataError, match=r"model.safetensors of \S+timm/test_resnet.r160_in1k, name it as"):
        timm_network("test_resnet.r160_in1k").backbone.load_imagenet()


def test_timms_weights_that_do_not_fit_are_listed(hub: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    state["bn1.bias"] = torch.zeros(2)
    del state["bn1.weight"]
    cache(hub, state)
    with pytest.raises(DataError, match=r'Missing key\(s\) in state_dict: "bn1.weight".*size mismatch for bn1.bias'):
        timm_network("test_resnet.r160_in1k").backbone.load_imagenet()


def test_a_network_without_weights_says_so() -> None:
    with pytest.raises(ParamsError, match=r"imagenet_pretrain: timm has no weights for model_params.model timm:r"):
        timm_network("resnetblur18").backbone.load_imagenet()


def vit(**options: object) -> ReidNetwork:
    """For images with the grid that timm's test_vit has nowhere else."""
    model = ModelParams.model_validate({"model": "timm:test_vit", "feature_dim": 0, **options})
    torch.manual_seed(4)
    return build_network(model, 3, (256, 128))


def test_the_weights_of_self_supervised_training_fill_the_backbone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a teacher (DINO, TransReID-SSL), with PASS's further tokens, and the first encoder of two (MoCo, LUPerson)."""
    source = {key: torch.randn_like(value) for key, value in vit().backbone.state_dict().items()}
    teacher = {f"module.backbone.{key}": value for key, value in source.items()} | {
        "module.head.mlp.0.weight": torch.ones(2)
    }
    torch.save({"student": {"a": torch.ones(1)}, "teacher": teacher, "epoch": 100}, tmp_path / "dino.pth")
    first, patches = source["pos_embed"].split((1, source["pos_embed"].shape[1] - 1), dim=1)
    passed = {**teacher, "module.backbone.cls_pos": first, "module.backbone.pos_embed": patches}
    torch.save({"teacher": {**passed, "module.backbone.part_token1": first}}, tmp_path / "pass.pth")
    bare = {key.removeprefix("module.backbone."): value for key, value in passed.items()}
    torch.save(bare, tmp_path / "bare.pth")
    for name in ("dino", "pass", "bare"):
        target = vit()
        load_snapshot(target, tmp_path / f"{name}.pth")
        loaded = target.backbone.state_dict()
        assert [key for key, value in source.items() if not torch.equal(loaded[key], value)] == []
    assert "part_token1" in caplog.text
    resnet = network(0).backbone.state_dict()
    both = {
        f"module.encoder_{letter}.{key}": value + place
        for place, letter in enumerate("qk")
        for key, value in resnet.items()
    }
    torch.save({"state_dict": {**both, "module.queue": torch.ones(2)}}, tmp_path / "moco.pth")
    target = network(1)
    load_snapshot(target, tmp_path / "moco.pth")
    assert all(torch.equal(value, resnet[key]) for key, value in target.backbone.state_dict().items())


def test_the_teacher_of_solider_fills_a_swin_transformer(tmp_path: Path) -> None:
    theirs = Solider()
    state = {f"module.backbone.{key}": value for key, value in theirs.base.state_dict().items()}  # pyright: ignore
    torch.save({"teacher": {**state, "module.head.weight": torch.ones(2)}}, tmp_path / "theirs.pth")
    options = {"model": "timm:swin_tiny_patch4_window7_224", "last_conv_stride": 2, "semantic_weight": 0.2}
    target = build_network(ModelParams.model_validate({**options, "feature_dim": 4}), 3, (64, 32)).eval()
    load_snapshot(target, tmp_path / "theirs.pth")
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        found = target.backbone(images).mean((2, 3))
        torch.testing.assert_close(found, theirs.eval()(images), rtol=1e-4, atol=1e-4)


FOREIGN: dict[str, tuple[Callable[[], nn.Module], dict[str, object], tuple[int, int]]] = {
    "fast-reid": (
        lambda: FastReidBaseline("resnet50", "fixed", False, (2, 3)),
        {"model": "resnet_50", "non_local": True},
        (64, 32),
    ),
    "MGN": (lambda: FastReidMGN("resnet34", 512, 4), {"model": "resnet_34", "head": "mgn"}, (96, 32)),
    "TransReID": (lambda: TransReID(384, 12), {"model": "timm:vit_small_patch16_224", "patch_stride": 12}, (256, 128)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_checkpoint_of_another_framework_fills_the_backbone(name: str, tmp_path: Path) -> None:
    make, options, size = FOREIGN[name]
    theirs = make()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    variant = {} if name == "TransReID" else {"resnet_variant": "fastreid"}
    target = build_network(ModelParams.model_validate({**options, **variant, "feature_dim": 4}), 3, size).eval()
    load_snapshot(target, tmp_path / "theirs.pth")
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        found = target.backbone.maps(images)
        if name == "fast-reid":
            expected = [theirs.eval().backbone(images)]  # pyright: ignore[reportCallIssue]
        elif name == "MGN":
            shared = theirs.eval().backbone(images)  # pyright: ignore[reportCallIssue]
            expected = [theirs.get_submodule(f"b{number}")(shared) for number in (1, 2, 3)]
        else:
            found, expected = found[-1:], [theirs.eval()(images)[:, :, None, None]]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_a_checkpoint_of_another_framework_that_is_not_supported_is_refused(tmp_path: Path) -> None:
    torch.save(
        {**FastReidBaseline("resnet18").state_dict(), "backbone.conv1.0.weight": torch.ones(1)}, tmp_path / "a.pth"
    )
    with pytest.raises(DataError, match=r"pretrain_snapshot: .*a\.pth: a ResNeSt of fast-reid, which is not supported"):
        load_snapshot(network(0), tmp_path / "a.pth")
