import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine import events
from engine.events import EventWriter
from tests.disks import file_size_limit, small_disk
from utils import logs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at the next event."""
    monkeypatch.setattr(logs, "SECONDS_BETWEEN_TRIES", 0.0)


def read(folder: Path) -> EventAccumulator:
    """All that TensorBoard finds in a folder, without thinning."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def steps(folder: Path, tag: str = "train/loss") -> list[int]:
    accumulator = read(folder)
    return [event.step for event in accumulator.Scalars(tag)] if tag in accumulator.Tags()["scalars"] else []


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_scalars_come_back_as_they_were_given(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path)
    writer.scalar("train/loss", 0.5, 10)
    writer.scalar("train/loss", float("nan"), 20)
    writer.scalar("evaluation/mAP", np.float64(0.25), 20)
    writer.close()
    found = read(tmp_path)
    first, second = found.Scalars("train/loss")
    assert (first.step, first.value) == (10, 0.5)
    assert (second.step, np.isnan(second.value)) == (20, True)
    assert [event.value for event in found.Scalars("evaluation/mAP")] == [0.25]


@pytest.mark.parametrize("dataformats", ["CHW", "HWC"])
def test_pictures_come_back_pixel_by_pixel(tmp_path: Path, dataformats: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    writer = EventWriter(tmp_path)
    writer.image("train/batch", pixels.transpose(2, 0, 1) if dataformats == "CHW" else pixels, 3, dataformats)
    writer.close()
    (picture,) = read(tmp_path).Images("train/batch")
    assert picture.step == 3
    assert (np.asarray(Image.open(BytesIO(picture.encoded_image_string))) == pixels).all()


def test_there_is_a_file_from_the_start_with_the_name_that_tensorboard_looks_for(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, filename_suffix=".step7")
    (name,) = files(tmp_path)
    assert name.startswith("events.out.tfevents.")
    assert name.endswith(".step7")
    writer.close()


def test_a_writer_that_is_not_enabled_writes_nothing(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, enabled=False)
    writer.scalar("train/loss", 1.0, 1)
    writer.flush()
    writer.close()
    assert files(tmp_path) == []


def test_an_event_after_the_end_is_a_mistake(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path)
    writer.close()
    writer.close()
    writer.flush()
    with pytest.raises(ValueError, match="closed"):
        writer.scalar("train/loss", 1.0, 1)


def test_a_resumed_run_hides_what_was_written_from_its_step_on(tmp_path: Path) -> None:
    for first, purge_step in ((10, None), (25, 21), (28, 28)):
        writer = EventWriter(tmp_path, purge_step=purge_step)
        for step in range(first, first + 20, 5):
            writer.scalar("train/loss", 0.0, step)
        writer.close()
    # All within a second: each has a file of its own nevertheless, and they are read in their order.
    assert len(files(tmp_path)) == 3
    assert steps(tmp_path) == [10, 15, 20, 25, 28, 33, 38, 43]


def test_a_clock_that_was_set_back_does_not_change_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = EventWriter(tmp_path)
    writer.scalar("train/loss", 0.0, 1)
    writer.close()
    monkeypatch.setattr(events.socket, "gethostname", lambda: "a.machine.whose.name.comes.first")
    monkeypatch.setattr(events.time, "time", lambda: 1_500_000_000.0)
    writer = EventWriter(tmp_path, purge_step=1)
    writer.scalar("train/loss", 0.0, 2)
    writer.close()
    assert steps(tmp_path) == [2]


def test_what_was_added_survives_a_kill(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from engine.events import EventWriter\n"
        "writer = EventWriter(Path(sys.argv[1]))\n"
        "for step in range(50): writer.scalar('train/loss', 0.0, step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == -signal.SIGKILL
    assert steps(tmp_path) == list(range(50))


@pytest.mark.usefixtures("impatient")
def test_events_before_and_after_a_full_disk_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        writer = EventWriter(disk.path, purge_step=0)
        writer.scalar("train/loss", 0.0, 1)
        disk.fill()
        step = 1
        while not caplog.messages:  # the file has room up to the end of its page
            step += 1
            writer.scalar("train/loss", 0.0, step)
        writer.scalar("train/loss", 0.0, step + 1)
        writer.flush()
        writer.image("train/batch", np.zeros((3, 64, 64), dtype=np.uint8), step + 2)
        assert len(files(disk.path)) == 2  # what could not be begun was removed; the other is what fills the disk
        disk.free()
        writer.scalar("train/loss", 0.0, step + 3)
        writer.scalar("train/loss", 0.0, step + 4)
        writer.close()
        assert steps(disk.path) == [*range(1, step), step + 3, step + 4]
    assert caplog.messages == [
        "curves are not written: No space left on device; free some space: training goes on",
        "curves are written again; missing: 3",
    ]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


@pytest.mark.usefixtures("impatient")
def test_a_record_that_was_cut_hides_none_that_come_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = EventWriter(tmp_path)
    (first,) = tmp_path.iterdir()
    with file_size_limit(first.stat().st_size + 100):  # some records fit, and a part of the next
        for step in range(5):
            writer.scalar("train/loss", 0.0, step)
    assert first.stat().st_size % 100 != 0
    writer.close()
    assert len(files(tmp_path)) == 2
    found = steps(tmp_path)
    assert found[0] == 0
    assert found[-1] == 4
    assert found == sorted(found)
    assert caplog.messages == [
        "curves are not written: File too large: training goes on",
        f"curves are written again; missing: {5 - len(found)}",
    ]


def test_a_full_disk_is_not_asked_at_every_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = EventWriter(tmp_path / "run")  # not there
    tries: list[object] = []
    new_file: Callable[[bytes], object] = writer._new_file
    monkeypatch.setattr(writer, "_new_file", lambda record: (tries.append(record), new_file(record))[1])
    for step in range(100):
        writer.scalar("train/loss", 0.0, step)
    assert tries == []
    clock = logs.time.monotonic() + logs.SECONDS_BETWEEN_TRIES
    monkeypatch.setattr(logs.time, "monotonic", lambda: clock)
    writer.scalar("train/loss", 0.0, 100)
    assert len(tries) == 1
    writer.close()
    assert len(caplog.messages) == 1


@pytest.mark.usefixtures("impatient")
def test_what_hides_an_interrupted_run_is_made_up_for_but_never_repeated(tmp_path: Path) -> None:
    folder, away = tmp_path / "run", tmp_path / "away"
    folder.mkdir()
    writer = EventWriter(folder)
    for step in (10, 20, 30):
        writer.scalar("train/loss", 0.0, step)
    writer.close()
    folder.rename(away)
    writer = EventWriter(folder, purge_step=20)  # its folder is not there
    writer.scalar("train/loss", 0.0, 25)
    away.rename(folder)
    writer.scalar("train/loss", 0.0, 35)
    assert steps(folder) == [10, 35]
    folder.rename(away)
    writer.flush()
    writer.scalar("train/loss", 0.0, 40)
    away.rename(folder)
    writer.scalar("train/loss", 0.0, 45)
    writer.close()
    assert steps(folder) == [10, 35, 45]


@pytest.mark.usefixtures("impatient")
def test_a_read_only_disk_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        disk.read_only(True)
        writer = EventWriter(disk.path)
        writer.scalar("train/loss", 0.0, 1)
        writer.flush()
        disk.read_only(False)
        writer.scalar("train/loss", 0.0, 2)
        writer.close()
        assert steps(disk.path) == [2]
    assert caplog.messages == [
        "curves are not written: Read-only file system; make its folder writable again: training goes on",
        "curves are written again; missing: 1",
    ]


def test_flush_does_not_keep_other_threads_from_adding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = EventWriter(tmp_path)
    on_disk, added = threading.Event(), threading.Event()

    def slow_disk(descriptor: int) -> None:
        on_disk.set()
        assert added.wait(10)

    monkeypatch.setattr(events.os, "fsync", slow_disk)
    flushing = threading.Thread(target=writer.flush)
    flushing.start()
    assert on_disk.wait(60)
    writer.scalar("train/loss", 0.0, 1)  # would wait for ever for a flush that holds the lock
    added.set()
    flushing.join(60)
    monkeypatch.undo()
    writer.close()
    assert steps(tmp_path) == [1]


def test_many_threads_add_and_flush_at_once(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path)

    def add(name: str) -> None:
        for step in range(200):
            writer.scalar(name, 0.0, step)
            if step % 50 == 0:
                writer.flush()

    threads = [threading.Thread(target=add, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert {name: steps(tmp_path, name) for name in "abc"} == {name: list(range(200)) for name in "abc"}


@pytest.mark.usefixtures("impatient")
def test_a_disk_that_fails_at_flush_gets_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = EventWriter(tmp_path)
    before = files(Path("/proc/self/fd"))
    with monkeypatch.context() as context:

        def fail(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        context.setattr(events.os, "fsync", fail)
        writer.flush()
    writer.scalar("train/loss", 0.0, 1)
    assert len(files(Path("/proc/self/fd"))) == len(before)
    writer.close()
    assert len(files(tmp_path)) == 2
    assert steps(tmp_path) == [1]
    assert caplog.messages[0] == "curves are not written: Input/output error: training goes on"
