"""Camera embeddings (SIE) against their definition."""

import logging
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from config.params import Params
from evaluate.core.load_model import load_trained_network
from models.backbones import from_timm
from models.backbones.backbone import BackboneError
from models.cameras import CameraEmbedding
from models.network import Embedder, ReidNetwork, build_network
from models.options import ModelParams
from models.outputs import concat_branches
from models.pretrained import load_snapshot
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import DataError

CAMIDS, SIZE = (2, 5, 9), (64, 32)
SEEN = torch.tensor([5, 2, 5, 9])
UNSEEN = torch.tensor([4, -1])


def options_of(**options: object) -> ModelParams:
    raw = {"model": "timm:test_vit", "feature_dim": 0, "neck": "bnneck", "camera_embedding": 3.0, **options}
    return ModelParams.model_validate(raw)


def build(camids: tuple[int, ...] = CAMIDS, seed: int = 0, **options: object) -> ReidNetwork:
    torch.manual_seed(seed)
    return build_network(options_of(**options), 5, SIZE, camids)


def vectors_of(network: ReidNetwork, camids: Tensor | None, number: int) -> list[Tensor]:
    """Of each image, from the definition."""
    weight = network.backbone.get_parameter("camera_embedding.weight")
    given = [None] * number if camids is None else camids.tolist()
    return [weight[CAMIDS.index(camid)] if camid in CAMIDS else weight.mean(0) for camid in given]


@pytest.mark.parametrize("camids", [SEEN, UNSEEN, torch.tensor([9, 8, 2]), None])
@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "vit_small_patch14_reg4_dinov2"])
def test_every_token_gets_the_vector_of_its_camera_and_the_mean_of_all_for_another(
    name: str, camids: Tensor | None
) -> None:
    network = build(model=f"timm:{name}").eval()
    plain = build_network(options_of(model=f"timm:{name}", camera_embedding=0), 5, SIZE).eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    number = 2 if camids is None else len(camids)
    images = torch.randn(number, 3, *SIZE)
    backbone, norm = plain.backbone, plain.backbone.norm_pre
    tokens = backbone._embed(images)  # pyright: ignore[reportCallIssue]
    assert type(norm) is torch.nn.Identity
    expected = []
    for image, vector in zip(tokens, vectors_of(network, camids, number), strict=True):
        moved = (image + 3 * vector)[None]
        for stage in backbone.stage_names[1:]:
            moved = backbone.run(stage, moved)
        patches = moved[:, backbone.num_prefix_tokens :]  # pyright: ignore[reportArgumentType]
        expected.append(patches.mean(1) if name == "test_vit2" else moved[:, 0])
    found = Embedder(network)(images, camids)
    features = torch.nn.functional.batch_norm(torch.cat(expected), *running(network))
    torch.testing.assert_close(found, features)
    torch.testing.assert_close(concat_branches(network(images, camids=camids), "embeddings"), features)


def running(network: ReidNetwork) -> tuple[Tensor, Tensor]:
    bn = network.heads()[0].bn
    assert bn is not None
    assert bn.running_mean is not None
    assert bn.running_var is not None
    return bn.running_mean, bn.running_var


def test_vectors_are_exact_in_half_precision_and_learn_from_their_own_images_only() -> None:
    embedding = CameraEmbedding(CAMIDS, 8, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        vectors = embedding(SEEN)
    assert torch.equal(vectors[:, 0], 2 * embedding.weight[[1, 0, 1, 2]])
    vectors[:1].sum().backward()
    assert embedding.weight.grad is not None
    assert torch.equal(embedding.weight.grad, torch.tensor([[0.0], [2.0], [0.0]]).expand(3, 8))


def test_vectors_start_small() -> None:
    torch.manual_seed(0)
    weight = CameraEmbedding(range(50), 64, 1.0).weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert weight.abs().max() < 0.1


def test_a_checkpoint_knows_its_cameras(tmp_path: Path) -> None:
    params = Params.model_validate({"img_h": 64, "img_w": 32, "model_params": options_of().model_dump()})
    network, images = build().eval(), torch.randn(2, 3, *SIZE)
    save_checkpoint(
        tmp_path / "a.pth", Checkpoint(network.state_dict(), params.model_dump(mode="json"), [*range(5)], {})
    )
    loaded = load_trained_network(tmp_path / "a.pth").network.eval()
    assert loaded.camids == Embedder(loaded).camids == CAMIDS
    for camids in (SEEN[:2], UNSEEN, None):
        torch.testing.assert_close(loaded.embed(images, camids), network.embed(images, camids))
    assert not torch.equal(loaded.embed(images, SEEN[:2]), loaded.embed(images, SEEN[2:]))


def test_networks_without_ask_for_no_cameras() -> None:
    network = build_network(ModelParams(model="resnet_18", feature_dim=8), 3, SIZE, CAMIDS).eval()
    images = torch.randn(2, 3, *SIZE)
    assert network.camids == ()
    assert torch.equal(network.embed(images, UNSEEN), network.embed(images))


@pytest.mark.parametrize(("camids", "same"), [(CAMIDS, True), ((2, 5, 8), False), ((1, 2), False)])
def test_a_snapshot_gives_vectors_of_the_same_cameras_only(
    camids: tuple[int, ...], same: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier, network, fresh = build(camids, seed=1), build(), build()
    torch.save(earlier.state_dict(), tmp_path / "earlier.pth")
    load_snapshot(network, tmp_path / "earlier.pth")
    name = "camera_embedding.weight"
    source = earlier if same else fresh
    assert torch.equal(network.backbone.get_parameter(name), source.backbone.get_parameter(name))
    assert network.camids == CAMIDS
    assert ("camera embeddings of other cameras" in caplog.text) == (not same)
    assert torch.equal(network.backbone.state_dict()["pos_embed"], earlier.backbone.state_dict()["pos_embed"])


def test_a_file_without_vectors_is_said_to_lack_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = build_network(options_of(camera_embedding=0), 5, SIZE)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    load_snapshot(build(), tmp_path / "plain.pth")
    assert "not in the file, left as initialised: backbone.camera_embedding.camids" in caplog.text


def test_a_file_of_which_nothing_fits_is_refused_though_the_vectors_are_there(tmp_path: Path) -> None:
    torch.save({"something.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="none of its 1 tensors fits"):
        load_snapshot(build(), tmp_path / "other.pth")


def test_weights_of_imagenet_leave_the_vectors_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_timm, "pretrained_state", lambda _: timm.create_model("test_vit").state_dict())
    network, fresh = build(), build()
    network.backbone.load_imagenet()
    assert torch.equal(*(each.backbone.get_parameter("camera_embedding.weight") for each in (network, fresh)))
    assert network.camids == CAMIDS


def test_vectors_belong_to_the_first_stage_and_get_a_gradient_without_cameras_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    backbone = build().backbone
    assert backbone.stages_above("camera_embedding.weight") == backbone.stages_above("pos_embed")
    backbone(torch.randn(2, 3, *SIZE)).sum().backward()
    gradient = backbone.get_parameter("camera_embedding.weight").grad
    assert gradient is not None
    torch.testing.assert_close(gradient, gradient.mean(0).expand(3, -1))


@pytest.mark.parametrize(
    "options",
    [
        {"model": "resnet_18"},
        {"model": "timm:test_efficientnet", "last_conv_stride": 2},
        {"model": "timm:swin_tiny_patch4_window7_224", "last_conv_stride": 2},
    ],
)
def test_a_network_without_tokens_is_one_message(options: dict[str, object]) -> None:
    with torch.device("meta"), pytest.raises(BackboneError, match="needs a vision transformer") as caught:
        build_network(options_of(**options), 3, SIZE, CAMIDS)
    assert caught.value.keys == ("model_params.camera_embedding", "model_params.model")


def test_cameras_must_be_known() -> None:
    with pytest.raises(ValueError, match="needs the cameras"):
        build_network(options_of(), 3, SIZE)
