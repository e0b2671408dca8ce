"""Embedding images on the fake GPU: batches of one size, and no batch that is waited for."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from config.params import Params
from data.samples import Sample
from evaluate.core import extract as extraction
from evaluate.core.context import EvalContext
from evaluate.core.extract import extract
from evaluate.market_evaluate import Options
from models.network import Embedder
from tests.gpu_rehearsal.fake_gpu import FakeGpu
from utils import precision

BATCH, NUM_IMAGES = 2, 5


class MeanColour(nn.Module):
    """(B, 3, H, W) -> the mean of each channel (B, 3); remembers the sizes and strides of the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(3))
        self.seen: list[tuple[torch.Size, tuple[int, ...]]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append((images.shape, images.stride()))
        return images.mean(dim=(2, 3)) * self.factor


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    paths = [tmp_path / f"{number}.png" for number in range(NUM_IMAGES)]
    for number, path in enumerate(paths):
        Image.new("RGB", (16, 32), (40 * number, 200, 10)).save(path)
    return [Sample(path, pid, 1) for pid, path in enumerate(paths)]


def context(net: nn.Module, **keys: object) -> EvalContext:
    options = Options.model_validate({"type": "market_evaluate", "batch_size": BATCH})
    size = {"img_h": 32, "img_w": 16, "precision": "fp32"}
    return EvalContext(Params.model_validate({**size, "evaluation_params": options, **keys}), net)


@pytest.mark.parametrize("flip", [False, True])
def test_batches_have_one_size_and_only_the_last_is_waited_for(
    gpu: FakeGpu, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, flip: bool
) -> None:
    waits: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    net = MeanColour().eval()
    expected = extract(context(net), samples, "gallery", flip=flip).features
    on_gpu = MeanColour().to(gpu.device).eval()
    with gpu.no_waits():
        found = extract(context(on_gpu), samples, "gallery", flip=flip).features
    assert waits == [gpu.device]
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected)
    assert {tuple(shape) for shape, _ in on_gpu.seen} == {(BATCH, 3, 32, 16)}
    assert len(set(on_gpu.seen)) == 1  # strides too: others would be another graph
    assert len(on_gpu.seen) == len(net.seen)


class Network(MeanColour):
    camids = ()

    def embed(self, images: torch.Tensor, camids: torch.Tensor | None = None) -> torch.Tensor:
        assert camids is None
        return self.forward(images)


@pytest.mark.parametrize(
    ("device", "compile_key", "flip", "worth", "times"),
    [
        ("cuda", "auto", False, NUM_IMAGES, 1),
        ("cuda", "auto", False, NUM_IMAGES + 1, 0),
        ("cuda", "graphs", True, 2 * NUM_IMAGES, 1),
        ("cuda", "off", False, NUM_IMAGES, 0),
        ("cpu", "on", False, NUM_IMAGES, 0),
    ],
)
def test_an_embedding_of_many_images_is_compiled_once(
    gpu: FakeGpu,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    compile_key: str,
    flip: bool,
    worth: int,
    times: int,
) -> None:
    compiled: list[dict[str, object]] = []

    def compile_module(net: nn.Module, **options: object) -> None:
        compiled.append(options)
        net._compiled_call_impl = net._call_impl

    monkeypatch.setattr(nn.Module, "compile", compile_module)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(extraction, "IMAGES_PER_STEP", 1)
    monkeypatch.setattr(precision, "STEPS_WORTH_COMPILING", worth)
    monkeypatch.setattr(precision, "_missing_for_compilation", lambda _: iter(()))
    embedder = Embedder(Network().to(device)).eval()  # pyright: ignore[reportArgumentType]
    for _ in range(2):
        extract(context(embedder, compile=compile_key), samples, "gallery", flip=flip)
    assert compiled == [{"dynamic": False}] * times
