"""The commands that make data sets: two at once, killed ones, and that nothing of them is left."""

import re
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import Script
from tests.reliability.runs import Run
from utils.locks import locked

LARGE = {
    "train_identities": 4, "test_identities": 4, "cameras": 2, "images_per_camera": 1, "distractors": 390, "junk": 1,
}  # fmt: skip
"""Images enough for two rendering processes."""


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "params.json")


@pytest.mark.parametrize(
    ("operation", "out", "rendered_in", "doing", "done"),
    [("make_synthetic", "set", ".", "making", "made"), ("build_lmdb", "set.lmdb", "datasets", "packing", "packed")],
)
def test_of_two_that_make_one_set_one_makes_it(
    script: Script, operation: str, out: str, rendered_in: str, doing: str, done: str
) -> None:
    """After a command that was killed while it rendered the pedestrians, which both operations need."""
    command = ("train.py", "--operation", operation, "--out", out)
    script.write_params(batches_dir="synthetic", synthetic=LARGE)
    rendered = script.folder / rendered_in
    rendered.mkdir(exist_ok=True)
    killed = script.start(*command)
    killed.wait_until(lambda: any(rendered.glob(".*.tmp/*/*.jpg")), "an image")
    assert killed.stop(signal.SIGKILL).returncode == -signal.SIGKILL
    assert len(left(rendered)) == 3, "the lock, its owner and the folder to render into"
    waits = f"busy with {doing} {out}: waiting for process"
    with ExitStack() as stack:
        with locked(script.folder / f".{out}.lock", "a test", wait=False):  # until both have begun
            both = [stack.enter_context(script.start(*command)) for _ in range(2)]
            for started in both:
                started.wait_until(lambda started=started: waits in started.stderr, "a process that waits")
        ended = [started.finish() for started in both]
    assert [process.returncode for process in ended] == [0, 0]
    assert sum(f"was {done} meanwhile by another process" in process.stderr for process in ended) == 1
    assert all(f"written: {out}" in process.stderr for process in ended)
    assert left(script.folder) == sorted({out, rendered_in} - {"."})
    assert len(left(rendered)) == 1
    # Nor have the processes that rendered for the killed one complained.
    assert "Traceback" not in killed.stderr


def test_a_folder_is_trained_in_by_one_run_only(tmp_path: Path) -> None:
    # It has not ended before the others are refused.
    run = Run(tmp_path / "first", epoch=10_000, evaluation_params={"type": None})
    refused: list[str] = []

    def others_have_tried() -> bool:
        if run.lines() == 0:
            return False
        for operation in ("start_train", "resume_train"):
            refused.append(run.script.mistake("train.py", "--operation", operation, "--sub_working_dir", run.path.name))
        return True

    code, told = run.stopped_at(lambda _: others_have_tried, signal.SIGTERM)
    assert code == 143, told
    for message in refused:
        assert re.search(r"busy with a training: process \d+ on host \S+ \(since .*\) holds the lock", message)
    assert "resume with: python train.py" in told
    assert not list(run.path.glob(".*"))
