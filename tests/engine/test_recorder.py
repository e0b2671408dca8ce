import json
import logging
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine import recorder as recorder_module
from engine.recorder import Progress, Recorder
from engine.run import RunFolder
from evaluate.core.plugins import Evaluation
from evaluate.core.report import Report
from utils.errors import DataError


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
    records = [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    with Recorder(folder) as recorder:
        for epoch in (1, 2, 3):
            recorder.scalars("evaluation", {"mAP": 0.1 * epoch}, 10 * epoch)
            recorder.epochs(records[:epoch])
    with Recorder(folder, purge_step=21) as recorder:
        recorder.epochs(records[:2])
        assert [json.loads(line) for line in folder.metrics.read_text().splitlines()] == records[:2]
        recorder.scalars("evaluation", {"mAP": 0.5}, 31)
        recorder.epochs([*records[:2], {"epoch": 3, "again": True}])
    assert steps(folder, "evaluation/mAP") == [10, 20, 31]
    found = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert found == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3, "again": True}]


def test_a_metrics_file_that_cannot_be_written_stops_nothing_before_the_end(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, text: str) -> None:
        raise DataError(f"{path}: cannot be written: No space left on device")

    write = recorder_module.write_text
    with Recorder(folder) as recorder:
        monkeypatch.setattr(recorder_module, "write_text", full)
        recorder.epochs([{"epoch": 1}])
        assert "No space left on device; training continues" in caplog.text
        with pytest.raises(DataError, match="No space left"):
            recorder.settle(folder.best)
        monkeypatch.setattr(recorder_module, "write_text", write)
        recorder.epochs([{"epoch": 1}, {"epoch": 2}])
        recorder.settle(folder.best)
    assert folder.metrics.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


def test_images_are_shown_as_a_grid(folder: RunFolder) -> None:
    images = torch.zeros(9, 3, 4, 2, dtype=torch.uint8)
    images[8, 0] = 255  # the first of the second row, red
    with Recorder(folder) as recorder:
        recorder.pictures({"train/batch": images}, 0)
    events = EventAccumulator(str(folder.path))
    events.Reload()
    shown = np.asarray(Image.open(BytesIO(events.Images("train/batch")[0].encoded_image_string)))
    assert shown.shape == (8, 16, 3)
    assert (shown[4:, :2] == (255, 0, 0)).all()
    assert shown[:4].max() == 0
    assert shown[4:, 2:].max() == 0


class Printer:
    """A sink in a few lines."""

    takes_files = True

    def __init__(self) -> None:
        self.lines: list[str] = []

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.lines += [f"{step} {tag} {value}" for tag, value in values.items()]

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        self.lines.append(f"{step} {tag} {pixels.shape}")

    def file(self, path: Path) -> None:
        self.lines.append(path.name)

    def flush(self) -> None:
        self.lines.append("flush")

    def close(self) -> None:
        self.lines.append("close")


def test_a_sink_of_ones_own_gets_everything(folder: RunFolder) -> None:
    sink = Printer()
    with Recorder(folder, sinks=[sink]) as recorder:
        recorder.scalars("train", {"softmax": 0.5, "triplet": 0.25}, 10)
        recorder.pictures({"samples": torch.zeros(9, 3, 4, 2, dtype=torch.uint8)}, 10)
        pictures = {"ranks": np.zeros((6, 5, 3), np.uint8)}
        evaluation = Evaluation(0.5, "mAP", {"mAP": 0.5}, {}, pictures, report=lambda: Report("title", "subtitle", ()))
        recorder.evaluation(evaluation, 20)
        recorder.best(evaluation)
        recorder.flush()
        folder.best.touch()
        recorder.settle(folder.best)
    assert sink.lines == [
        "10 train/softmax 0.5",
        "10 train/triplet 0.25",
        "10 samples (8, 16, 3)",
        "20 evaluation/mAP 0.5",
        "20 evaluation/ranks (6, 5, 3)",
        "flush",
        "model_best.pth",
        "report.html",
        "close",
    ]


def test_the_speed_of_an_epoch_leaves_out_the_steps_that_warm_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = iter([0.0, 100.0, 116.0])
    monkeypatch.setattr(recorder_module.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(recorder_module, "bars_hidden", lambda: True)
    with caplog.at_level(logging.INFO), Progress("epoch 1/2", 1000) as progress:
        progress.update(40, {"loss": 1.0})
        progress.update(200, {"loss": 1.0})
    (line,) = caplog.messages
    assert "200/1000" in line
    assert "10 examples/s  80 s left" in line


def test_a_report_that_cannot_be_made_stops_no_training(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    def report() -> Report:
        raise DataError("no room")

    with Recorder(folder, sinks=[Printer()]) as recorder:
        recorder.best(Evaluation(0.5, "mAP", {"mAP": 0.5}, {}, {}, report=report))
        recorder.settle(folder.best)
    assert "no room; training continues" in caplog.text


def test_a_training_with_tensorboard_alone_makes_no_report(folder: RunFolder) -> None:
    with Recorder(folder) as recorder:
        recorder.best(Evaluation(0.5, "mAP", {"mAP": 0.5}, {}, {}, report=lambda: pytest.fail("made")))
    assert not folder.report.exists()
