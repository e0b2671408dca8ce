"""Embedding images on the fake GPU: batches of one size, and no batch that is waited for."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from config.params import Params
from data.samples import Sample
from evaluate.core.context import EvalContext
from evaluate.core.extract import extract
from evaluate.market_evaluate import Options
from tests.gpu_rehearsal.fake_gpu import FakeGpu

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


@pytest.mark.parametrize("flip", [False, True])
def test_batches_have_one_size_and_only_the_last_is_waited_for(
    gpu: FakeGpu, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, flip: bool
) -> None:
    waits: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    options = Options.model_validate({"type": "market_evaluate", "batch_size": BATCH})
    params = Params.model_validate({"img_h": 32, "img_w": 16, "precision": "fp32", "evaluation_params": options})
    net = MeanColour().eval()
    expected = extract(EvalContext(params, net), samples, "gallery", flip=flip).features
    on_gpu = MeanColour().to(gpu.device).eval()
    with gpu.no_waits():
        found = extract(EvalContext(params, on_gpu), samples, "gallery", flip=flip).features
    assert waits == [gpu.device]
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected)
    assert {tuple(shape) for shape, _ in on_gpu.seen} == {(BATCH, 3, 32, 16)}
    assert len(set(on_gpu.seen)) == 1  # strides too: others would be another graph
    assert len(on_gpu.seen) == len(net.seen)
