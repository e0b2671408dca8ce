"""What looks at images: a trained network as it was trained, or Inception as torchvision has it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.params import Params
from data.augmentation.normalisation import normalise
from data.decoding import Resize
from evaluate.core.generation.feature_network import FeatureNetwork, features_of, load_feature_network
from models.network import ReidNetwork, build_network
from tests.conftest import TINY_PARAMS
from utils.checkpoint import MODEL_BEST, Checkpoint, save_checkpoint
from utils.errors import DataError

CPU = torch.device("cpu")


def save_model(path: Path, **changes: Any) -> ReidNetwork:
    """Write a randomly initialised network as a trained one."""
    params = Params.model_validate_json(json.dumps({**TINY_PARAMS, "evaluation_params": {}, **changes}))
    torch.manual_seed(3)
    network = build_network(params.model_params, 3).eval()
    save_checkpoint(path, Checkpoint(network.state_dict(), params.model_dump(mode="json"), [3, 4, 5], {}))
    return network


def draw(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for torchvision's weights that has none, and no way to fetch any."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # Nothing listens on this port, so a download fails at once whether or not there is a network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_a_run_measures_with_the_embedding_of_its_best_model(tmp_path: Path) -> None:
    network = save_model(tmp_path / MODEL_BEST)
    feature_network = load_feature_network(str(tmp_path), CPU)
    images = draw(5, 3, 64, 32)
    features = feature_network(images)
    assert features.shape == (5, feature_network.dim) == (5, network.embedding_dim)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, network.embed(normalise(images, "imagenet")), rtol=1e-4, atol=1e-5)
    assert feature_network.name == str(tmp_path / MODEL_BEST)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_shown_as_the_network_was_trained_on_them(interpolation: str, tmp_path: Path) -> None:
    augmentation = {"normalisation": "half", "interpolation": interpolation}
    network = save_model(tmp_path / "net.pth", img_h=128, img_w=48, data_augmentation=augmentation)
    images = draw(4, 3, 256, 40)
    resized = F.interpolate(images.float(), (128, 48), mode=interpolation, antialias=True)
    expected = network.embed((resized.clamp(0, 255) / 255 - 0.5) / 0.5)
    features = load_feature_network(str(tmp_path / "net.pth"), CPU)(images)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


def test_the_network_is_frozen_and_in_evaluation_mode(tmp_path: Path) -> None:
    save_model(tmp_path / "net.pth")
    network = load_feature_network(str(tmp_path / "net.pth"), CPU).network
    assert not any(module.training for module in network.modules())
    assert not any(weight.requires_grad for weight in network.parameters())


def test_a_missing_or_unusable_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^gan_params.measured_by: .*nowhere: no such file; train a re-ID network"):
        load_feature_network(str(tmp_path / "nowhere"), CPU)
    with pytest.raises(DataError, match=rf"^gan_params.measured_by: .*{MODEL_BEST}: no such file"):
        load_feature_network(str(tmp_path), CPU)
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"^gan_params.measured_by: .*broken.pth"):
        load_feature_network(str(tmp_path / "broken.pth"), CPU)


class MeanColour(nn.Module):
    """A network that notes how many images it is shown at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(len(images))
        return images.mean(dim=(2, 3))


@pytest.mark.parametrize("as_batches", [False, True])
def test_features_come_in_order_whatever_the_batches(as_batches: bool) -> None:
    network = MeanColour()
    feature_network = FeatureNetwork(network, "", "colour", 3, Resize(8, 4, "bilinear"), "half", CPU)
    images = draw(11, 3, 8, 4)
    features = features_of(feature_network, iter(images.split([1, 7, 0, 3])) if as_batches else images, batch_size=3)
    assert isinstance(features, np.ndarray)
    assert features.dtype == np.float32
    expected = (images.double().mean(dim=(2, 3)) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)
    assert network.shown == ([1, 3, 3, 1, 3] if as_batches else [3, 3, 3, 2])


def test_what_are_no_images_is_refused() -> None:
    feature_network = FeatureNetwork(MeanColour(), "", "colour", 3, Resize(8, 4, "bilinear"), "half", CPU)
    for wrong in (torch.zeros(2, 3, 8, 4), draw(2, 1, 8, 4), draw(3, 8, 4)):
        with pytest.raises(ValueError, match=r"images: uint8 \(B, 3, H, W\) expected, got"):
            feature_network(wrong)
    for nothing in (draw(0, 3, 8, 4), []):
        with pytest.raises(ValueError, match="images: there are none"):
            features_of(feature_network, nothing)


@pytest.mark.usefixtures("hub")
def test_missing_weights_of_inception_are_explained() -> None:
    expected = (
        r"^gan_params.measured_by: the weights of Inception could not be fetched (.|\n)*download https\S+ and put it "
        r"at \S+checkpoints/inception_v3\w+-\w+\.pth, or train a re-ID network \(python train.py\) and name its run"
    )
    with pytest.raises(DataError, match=expected):
        load_feature_network("inception", CPU)


def test_inception_gives_what_torchvision_pools(hub: Path) -> None:
    from torchvision.models import Inception_V3_Weights, inception_v3

    torch.manual_seed(0)
    # As torchvision sets it up with these weights: for images normalised with ImageNet's statistics.
    whole = inception_v3(weights=None, transform_input=True, init_weights=False).eval()
    for layer in whole.modules():
        if isinstance(layer, nn.Conv2d):
            # As it is drawn by default nothing would be left of an image after so many layers.
            nn.init.kaiming_normal_(layer.weight)
    torch.save(whole.state_dict(), hub / Inception_V3_Weights.DEFAULT.url.rpartition("/")[2])
    state = torch.get_rng_state()
    feature_network = load_feature_network("inception", CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert (feature_network.name, feature_network.dim) == ("inception", 2048)
    images = torch.cat([draw(1, 3, 128, 64), draw(1, 3, 128, 64) // 3])
    pooled: list[Tensor] = []
    whole.avgpool.register_forward_hook(lambda _module, _inputs, output: pooled.append(output.flatten(1)))
    with torch.no_grad():
        whole(F.interpolate(normalise(images, "imagenet"), (299, 299), mode="bilinear", antialias=True))
    assert (pooled[0][0] - pooled[0][1]).abs().max() > 0.1
    torch.testing.assert_close(feature_network(images), pooled[0], rtol=1e-3, atol=1e-3)
