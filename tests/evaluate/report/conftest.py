"""A retrieval small enough to report on in a second, with pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from PIL import Image

from config.params import Params
from data.features import Features, TestFeatures
from data.samples import Sample
from evaluate.core.context import EvalContext
from evaluate.core.report.blocks import Block, Section
from evaluate.core.retrieval.retrieve import Retrieval, RetrievalOptions, retrieve

B = TypeVar("B", bound=Block)


def blocks_of(section: Section, kind: type[B]) -> list[B]:
    """The blocks of a section, all of which must be of a kind."""
    blocks = [block for block in section.blocks if isinstance(block, kind)]
    assert len(blocks) == len(section.blocks)
    return blocks


@pytest.fixture
def make_features(tmp_path: Path) -> Callable[..., TestFeatures]:
    """Six persons, three cameras, distractors and junk: 18 queries and 72 gallery images in files of their own."""

    def side(name: str, pids: list[int], rng: np.random.Generator, num_cameras: int) -> Features:
        centres = np.random.default_rng(5).normal(size=(8, 12))
        samples, rows = [], []
        for place, pid in enumerate(pids):
            camid = place % num_cameras + 1
            path = tmp_path / "pictures" / f"{name}_{place:03}.png"
            path.parent.mkdir(exist_ok=True)
            colour = np.random.default_rng(pid + 1).integers(0, 256, 3)
            pixels = np.clip(colour + rng.normal(0, 30, (32, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path)
            samples.append(Sample(path, pid, camid))
            rows.append(centres[pid + 1] + rng.normal(0, 1.2, 12))
        camids = torch.tensor([sample.camid for sample in samples])
        return Features(torch.tensor(np.array(rows), dtype=torch.float32), torch.tensor(pids), camids, samples)

    def make(num_cameras: int = 3) -> TestFeatures:
        rng = np.random.default_rng(0)
        query = [pid for pid in range(1, 7) for _ in range(3)]
        gallery = [pid for pid in (1, 2, 3, 4, 5, 6, 0, -1) for _ in range(9)]
        return TestFeatures(side("query", query, rng, num_cameras), side("gallery", gallery, rng, num_cameras))

    return make


@pytest.fixture
def config() -> EvalContext:
    """An evaluation without a network."""
    params = Params(batches_dir="/data/Market <1501>", img_h=64, img_w=32)
    return EvalContext(params.model_copy(update={"evaluation_params": RetrievalOptions(type="market_evaluate")}))


@pytest.fixture
def retrieval(make_features: Callable[..., TestFeatures], config: EvalContext) -> Retrieval:
    options = config.evaluation_params
    assert isinstance(options, RetrievalOptions)
    return retrieve(make_features(), options, torch.device("cpu"))
