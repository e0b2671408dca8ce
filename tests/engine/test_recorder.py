import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.augmentation.normalisation import normalise
from engine.recorder import Recorder
from engine.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(str(tmp_path), "run")
    folder.path.mkdir()
    return folder


def steps(folder: RunFolder, tag: str) -> list[int]:
    events = EventAccumulator(str(folder.path))
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


def test_a_resumed_run_keeps_what_was_finished_and_drops_what_was_not(folder: RunFolder) -> None:
    with Recorder(folder) as recorder:
        for epoch in (1, 2, 3):
            recorder.scalars("evaluation", {"mAP": 0.1 * epoch}, 10 * epoch)
            recorder.epoch({"epoch": epoch})
    with Recorder(folder, resumed_at=(2, 20)) as recorder:
        recorder.scalars("evaluation", {"mAP": 0.5}, 31)
        recorder.epoch({"epoch": 3, "again": True})
    assert steps(folder, "evaluation/mAP") == [10, 20, 31]
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert records == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3, "again": True}]


def test_a_batch_is_shown_as_the_network_sees_it(folder: RunFolder) -> None:
    images = torch.zeros(9, 3, 4, 2, dtype=torch.uint8)
    images[8, 0] = 255  # the first of the second row, red
    with Recorder(folder) as recorder:
        recorder.batch(normalise(images, "imagenet"), "imagenet", 0)
    events = EventAccumulator(str(folder.path))
    events.Reload()
    from io import BytesIO

    from PIL import Image

    grid = np.asarray(Image.open(BytesIO(events.Images("train/batch")[0].encoded_image_string)))
    assert grid.shape == (8, 16, 3)
    assert (grid[4:, :2] == (255, 0, 0)).all()
    assert grid[:4].max() == 0
    assert grid[4:, 2:].max() == 0
