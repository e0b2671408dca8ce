"""The commands that make data sets: two at once, killed ones, and that nothing of them is left."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Script
from tests.reliability.runs import Run
from utils.locks import locked

LARGE = {
    "train_identities": 4, "test_identities": 4, "cameras": 2, "images_per_camera": 1, "distractors": 390, "junk": 1,
}  # fmt: skip
"""Images enough for two rendering processes."""

Process = subprocess.Popen[str]


@contextmanager
def started(script: Script, operation: str, *arguments: str) -> Iterator[Process]:
    command = script.command("train.py", "--operation", operation, *arguments)
    process = subprocess.Popen(
        command, cwd=script.folder, env=script.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_line(process: Process, text: str) -> None:
    """Read stderr until a line holds the text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"ended without a line that holds {text!r}")


def wait_for_file(process: Process, folder: Path, pattern: str) -> Path:
    while process.poll() is None:
        if found := next(folder.glob(pattern), None):
            return found
        time.sleep(0.001)
    raise AssertionError(f"ended before there was {pattern}: {process.communicate()[1]}")


def killed_while_rendering(script: Script, folder: Path, operation: str, *arguments: str) -> str:
    """Kill a command once it has rendered an image; returns what it and its rendering processes said."""
    with started(script, operation, *arguments) as process:
        wait_for_file(process, folder, ".*.tmp/*/*.jpg")
        process.send_signal(signal.SIGKILL)
        # They hold stderr open, so this returns when the last of them has ended by itself.
        output = process.communicate(timeout=60)[1]
        assert process.returncode == -signal.SIGKILL
    assert len(left(folder)) == 3, "the lock, its owner and the folder to render into"
    return output


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "params.json")


@pytest.mark.parametrize(
    ("operation", "out", "rendered_in", "doing", "done"),
    [
        pytest.param("make_synthetic", "set", ".", "making", "made", marks=pytest.mark.slow),
        ("build_lmdb", "set.lmdb", "datasets", "packing", "packed"),
    ],
)
def test_of_two_that_make_one_set_one_makes_it(
    script: Script, operation: str, out: str, rendered_in: str, doing: str, done: str
) -> None:
    """After a command that was killed while it rendered the pedestrians, which both operations need."""
    arguments = (operation, "--out", out)
    script.write_params(batches_dir="synthetic", synthetic=LARGE)
    rendered = script.folder / rendered_in
    rendered.mkdir(exist_ok=True)
    assert "Traceback" not in killed_while_rendering(script, rendered, *arguments)
    with started(script, *arguments) as one, started(script, *arguments) as two:
        with locked(script.folder / f".{out}.lock", "a test", wait=False):  # until both have begun
            for process in (one, two):
                wait_for_line(process, f"busy with {doing} {out}: waiting for process")
        outputs = [process.communicate()[1] for process in (one, two)]
        assert [one.returncode, two.returncode] == [0, 0], outputs
    assert sum(f"was {done} meanwhile by another process" in output for output in outputs) == 1
    assert all(f"written: {out}" in output for output in outputs)
    assert left(script.folder) == sorted({out, rendered_in} - {"."})
    assert len(left(rendered)) == 1


def test_a_folder_is_trained_in_by_one_run_only(tmp_path: Path) -> None:
    # It has not ended before the others are refused.
    run = Run(tmp_path / "first", epoch=10_000, evaluation_params={"type": None})
    refused: list[subprocess.CompletedProcess[str]] = []

    def others_have_tried() -> bool:
        if run.lines() == 0:
            return False
        for operation in ("start_train", "resume_train"):
            refused.append(run.script.run("train.py", "--operation", operation, "--sub_working_dir", run.path.name))
        return True

    code, told = run.stopped_at(lambda _: others_have_tried, signal.SIGTERM)
    assert code == 143, told
    for process in refused:
        assert process.returncode == 2
        assert re.search(r"busy with a training: process \d+ on host \S+ \(since .*\) holds the lock", process.stderr)
    assert "resume with: python train.py" in told
    assert not list(run.path.glob(".*"))
