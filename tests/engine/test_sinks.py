import errno
import signal
import subprocess
import sys
from io import BytesIO, FileIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.sinks.tensorboard import TensorBoard
from tests.disks import file_size_limit

ROOT = Path(__file__).resolve().parents[2]


def read(folder: Path) -> EventAccumulator:
    """All that TensorBoard finds in a folder, without thinning."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def steps(folder: Path) -> list[int]:
    return [event.step for event in read(folder).Scalars("train/loss")]


def test_scalars_come_back_as_they_were_given(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path)
    sink.scalars({"train/loss": 0.5, "evaluation/mAP": np.float64(0.25)}, 10)
    sink.scalars({"train/loss": float("nan")}, 20)
    sink.close()
    found = read(tmp_path)
    first, second = found.Scalars("train/loss")
    assert (first.step, first.value) == (10, 0.5)
    assert (second.step, np.isnan(second.value)) == (20, True)
    assert [event.value for event in found.Scalars("evaluation/mAP")] == [0.25]


def test_images_come_back_pixel_by_pixel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    sink = TensorBoard(tmp_path)
    sink.image("train/batch", pixels, 3)
    sink.close()
    (image,) = read(tmp_path).Images("train/batch")
    assert image.step == 3
    assert (np.asarray(Image.open(BytesIO(image.encoded_image_string))) == pixels).all()


def test_a_resumed_run_hides_what_was_written_from_its_step_on(tmp_path: Path) -> None:
    for first, purge_step in ((10, 0), (25, 21), (28, 28)):
        sink = TensorBoard(tmp_path, purge_step)
        for step in range(first, first + 20, 5):
            sink.scalars({"train/loss": 0.0}, step)
        sink.close()
    # All within a second: each has a file of its own nevertheless, and they are read in their order.
    assert len(list(tmp_path.iterdir())) == 3
    assert steps(tmp_path) == [10, 15, 20, 25, 28, 33, 38, 43]


def test_what_was_recorded_survives_a_kill(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from engine.sinks.tensorboard import TensorBoard\n"
        "sink = TensorBoard(Path(sys.argv[1]))\n"
        "for step in range(50): sink.scalars({'train/loss': 0.0}, step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == -signal.SIGKILL
    assert steps(tmp_path) == list(range(50))


def test_a_full_disk_ends_the_curves_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = TensorBoard(tmp_path)
    sink.scalars({"train/loss": 0.0}, 0)
    with file_size_limit(sink.path.stat().st_size):
        for step in range(1, 5):
            sink.scalars({"train/loss": 0.0}, step)
            sink.flush()
    sink.scalars({"train/loss": 0.0}, 5)
    sink.close()
    assert steps(tmp_path) == [0]
    (message,) = caplog.messages
    assert message.startswith("curves are not written any more: File too large")


def test_an_error_while_closing_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(FileIO):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(Path, "open", lambda path, mode: Failing(path, mode))
    sink = TensorBoard(tmp_path)
    sink.close()
    sink.close()
    (message,) = caplog.messages
    assert message.startswith("curves are not written any more: Disk quota exceeded")


def test_a_folder_that_is_not_there_ends_the_curves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = TensorBoard(tmp_path / "run", purge_step=3)
    sink.scalars({"train/loss": 0.0}, 4)
    sink.close()
    assert len(caplog.messages) == 1
