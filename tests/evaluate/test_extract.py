"""From image files to features with a network of a few lines."""

import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from config.params import Params
from data.cache import DecodedImageCache
from data.samples import Sample
from evaluate.core.context import EvalContext
from evaluate.core.extract import extract, read_images
from evaluate.market_evaluate import Options
from utils.errors import DataError, UserError

COLOURS = [(250, 0, 0), (0, 200, 0), (0, 0, 150), (100, 100, 100), (30, 60, 90)]


class MeanColour(nn.Module):
    """(B, 3, H, W) -> the mean of each channel (B, 3); remembers the batches it saw."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.seen: list[tuple[torch.Size, torch.dtype]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append((images.shape, images.dtype))
        return images.mean(dim=(2, 3)) * self.factor


def samples_of(paths):
    return [Sample(path, pid, pid % 2 + 1) for pid, path in enumerate(paths, start=1)]


def params(net, **keys):
    options = Options.model_validate({"type": "market_evaluate", "batch_size": 2})
    half = {"data_augmentation": {"normalisation": "half"}}
    return EvalContext(
        Params.model_validate({"img_h": 32, "img_w": 16, "evaluation_params": options} | half | keys), net
    )


def test_embeds_every_image_in_order(image_files):
    net = MeanColour().eval()
    samples = samples_of(image_files(COLOURS))
    found = extract(params(net), samples, "gallery")
    expected = (torch.tensor(COLOURS) / 255 - 0.5) / 0.5
    torch.testing.assert_close(found.features, expected, rtol=0, atol=0.02)  # JPEG is off by a few levels
    assert (found.features.dtype, found.features.device.type) == (torch.float32, "cpu")
    assert found.pids.tolist() == [1, 2, 3, 4, 5]
    assert found.camids.tolist() == [2, 1, 2, 1, 2]
    assert found.samples == samples
    assert net.seen == [(torch.Size([size, 3, 32, 16]), torch.float32) for size in (2, 2, 1)]


class Cameras(MeanColour):
    """Adds the camera of each image to its colour."""

    camids = (1, 2)

    def forward(self, images: torch.Tensor, camids: torch.Tensor | None = None) -> torch.Tensor:
        colours = super().forward(images)
        return colours if camids is None else colours + camids[:, None]


@pytest.mark.parametrize("flip", [False, True])
def test_a_network_that_asks_for_cameras_gets_those_of_the_images_it_sees(image_files, flip):
    paths = image_files(COLOURS)
    paths[1].write_bytes(b"broken")
    samples = [Sample(path, 1, camid) for path, camid in zip(paths, (3, 9, 1, 2, 4), strict=True)]
    config = params(Cameras().eval(), bad_images="skip")
    options = config.evaluation_params.model_copy(update={"same_cameras": False})
    found = extract(config, samples, "gallery", flip=flip)
    without = extract(config.model_copy(update={"evaluation_params": options}), samples, "gallery", flip=flip)
    added = (found.features - without.features) / (2 if flip else 1)
    torch.testing.assert_close(added, torch.tensor([[3.0], [1], [2], [4]]).expand(4, 3))


def test_images_kept_from_an_earlier_evaluation_are_not_read_again(image_files):
    net, kept = MeanColour().eval(), DecodedImageCache(10**6)
    paths = image_files(COLOURS)
    config = replace(params(net), images=kept)
    first = extract(config, samples_of(paths), "gallery")
    assert kept.used == len(paths) * 32 * 16 * 3
    for path in paths:
        path.unlink()
    assert torch.equal(extract(config, samples_of(paths), "gallery").features, first.features)


def test_features_may_be_changed_by_the_plugin(image_files):
    found = extract(params(MeanColour().eval()), samples_of(image_files(COLOURS[:1])), "gallery")
    assert not found.features.requires_grad
    found.features.mul_(2.0)  # an error on tensors that inference mode made


def test_normalises_as_training_does(image_files):
    samples = samples_of(image_files([(0, 0, 0)]))
    config = params(MeanColour().eval(), data_augmentation={"normalisation": "imagenet"})
    expected = torch.tensor([[-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]])
    torch.testing.assert_close(extract(config, samples, "query").features, expected)


class FirstRow(nn.Module):
    """(B, 3, H, W) -> the first row of the first channel (B, W)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, 0]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizes_as_training_does(interpolation, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8))
    image.save(tmp_path / "image.png")
    augmentation = {"normalisation": "unit", "interpolation": interpolation}
    config = params(FirstRow().eval(), data_augmentation=augmentation)
    resized = np.asarray(image.resize((16, 32), Image.Resampling[interpolation.upper()]))
    expected = torch.tensor(resized[None, 0, :, 0]).float() / 255
    torch.testing.assert_close(extract(config, samples_of([tmp_path / "image.png"]), "query").features, expected)


def test_an_unreadable_image_is_an_error_or_left_out_where_asked_for(image_files, caplog):
    paths = image_files(COLOURS)
    paths[1].write_bytes(b"no image")
    with pytest.raises(DataError, match=r"01\.jpg"):
        extract(params(MeanColour().eval()), samples_of(paths), "gallery")
    found = extract(params(MeanColour().eval(), bad_images="skip"), samples_of(paths), "gallery")
    assert found.pids.tolist() == [1, 3, 4, 5]
    assert [sample.pid for sample in found.samples] == [1, 3, 4, 5]
    assert len(found.features) == 4
    assert "gallery: 1 of 5 images unreadable, left out" in caplog.text
    with pytest.raises(DataError, match="query: none of 1 images can be read"):
        extract(params(MeanColour().eval(), bad_images="skip"), samples_of(paths[1:2]), "query")


@pytest.mark.parametrize(
    ("net", "error", "message"),
    [
        (
            MeanColour(torch.nan).eval(),
            DataError,
            r"query: .*NaN or infinity for 2 of 2 images, the first is .*00\.png",
        ),
        (MeanColour(), ValueError, "training mode"),
        (nn.Identity().eval(), ValueError, r"returned \(2, 3, 32, 16\) for 2 images, not \(B, D\)"),
    ],
)
def test_a_network_without_usable_embeddings_is_refused(image_files, net, error, message):
    with pytest.raises(error, match=message):
        extract(params(net), samples_of(image_files(COLOURS[:2])), "query")


class LeftEdge(nn.Module):
    """(B, 3, H, W) -> the mean colour of the left half (B, 3), which the mirror image has on the right."""

    branch_dims = (2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[..., : images.shape[3] // 2].mean(dim=(2, 3))

    def brightness(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3), keepdim=True).flatten(1)


@pytest.fixture
def two_coloured(tmp_path):
    """An image that is black on the left and white on the right."""
    path = tmp_path / "two.png"
    image = Image.new("RGB", (16, 32), (0, 0, 0))
    image.paste((255, 255, 255), (8, 0, 16, 32))
    image.save(path)
    return samples_of([path])


def test_flip_adds_the_embedding_of_the_mirror_image(two_coloured):
    config = params(LeftEdge().eval())
    assert extract(config, two_coloured, "query").features.tolist() == [[-1.0] * 3]
    assert extract(config, two_coloured, "query", flip=True).features[0].tolist() == pytest.approx([0.0] * 3, abs=1e-6)


def test_the_parts_of_the_embedding_are_those_of_the_network(two_coloured, image_files):
    assert extract(params(LeftEdge().eval()), two_coloured, "query").branch_dims == (2, 1)
    plain = extract(params(MeanColour().eval()), samples_of(image_files(COLOURS[:1])), "query")
    assert plain.branch_dims == ()


def test_another_function_of_the_network_can_be_read(two_coloured, image_files):
    net = LeftEdge().eval()
    paths = image_files([(51, 51, 51), (204, 204, 204), (0, 0, 0)])
    paths[1].write_bytes(b"no image")
    samples = samples_of(paths) + two_coloured
    kept, rows = read_images(params(net, bad_images="skip"), samples, "val", net.brightness, flip=True)
    assert kept == [samples[0], *samples[2:]]
    torch.testing.assert_close(rows, torch.tensor([[-1.2], [-2.0], [0.0]]), rtol=0, atol=0.02)


class FullDevice(MeanColour):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")


def test_a_batch_too_large_for_the_device_is_told_with_what_to_lower(image_files):
    with pytest.raises(UserError) as told:
        extract(params(FullDevice().eval()), samples_of(image_files(COLOURS)), "gallery")
    first, advice = str(told.value).splitlines()
    assert first.startswith("out of memory, gallery: evaluating 2 images of 32 x 16 a batch: CUDA out of memory.")
    assert advice == "lower evaluation_params.batch_size"


def test_the_speed_is_logged(image_files, caplog):
    with caplog.at_level(logging.INFO):
        extract(params(MeanColour().eval()), samples_of(image_files(COLOURS)), "gallery")
    assert re.search(r"^gallery: 5 images, \d+ images/s$", caplog.messages[-1])
