import logging
import os
import select
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disks import small_disk
from utils import logs
from utils.logs import log_to_file, log_to_screen

ROOT = Path(__file__).resolve().parents[2]
FULL = Path("/dev/full")  # every write to it fails for lack of room


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The root logger, which is given back as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    root.setLevel(logging.INFO)
    yield root
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at the next line."""
    monkeypatch.setattr(logs, "SECONDS_BETWEEN_TRIES", 0.0)


def messages(path: Path) -> list[str]:
    """The lines of a log without their time."""
    return [line.split(" ", 2)[2] for line in path.read_text().splitlines()]


def test_every_line_lies_in_the_file_at_once_behind_those_there_were(logger: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "train_log"
    path.write_text("2026-01-01 12:00:00 INFO of the run before\n")
    log_to_file(path)
    logger.info("grüße\nin two lines")
    assert path.read_text().splitlines()[-1] == "in two lines"
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["before", "grüße", "lines"]


def test_a_line_that_was_cut_stays_a_line_of_its_own(logger: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "train_log"
    path.write_text("2026-01-01 12:00:00 INFO of the ru")
    log_to_file(path)
    logger.info("on we go")
    assert messages(path) == ["INFO of the ru", "INFO on we go"]


def test_a_name_that_is_no_text_can_be_logged(logger: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "train_log"
    log_to_file(path)
    name = os.fsdecode(b"/data/M\xfcnchen")
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 1, "reading %s", (name,), None)
    # Past the other handlers: what pytest keeps of the log must be text.
    logging.getLogger().handlers[-1].handle(record)
    assert messages(path) == ["INFO reading /data/M\\udcfcnchen"]


@pytest.mark.usefixtures("impatient")
def test_a_full_disk_is_told_once_and_what_is_missing_is_said_where_it_is_missing(
    logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train_log"
    path.write_text("")
    log_to_file(path)
    logger.info("one")
    path.rename(tmp_path / "kept")
    path.symlink_to(FULL)
    # The file that is open would go on to work: what opens it again is that its name has gone.
    (tmp_path / "kept").unlink()
    for word in ("two", "three", "four"):
        logger.info(word)
    path.unlink()
    logger.info("five")
    logger.info("six")
    assert messages(path) == [
        "WARNING lines that could not be written and are missing here: 3",
        "INFO five",
        "INFO six",
    ]
    subject = f"lines of {path} are"
    assert capsys.readouterr().err.splitlines() == [
        f"{subject} not written: No space left on device; free some space: training goes on",
        f"{subject} written again; missing: 3",
    ]


def test_a_full_disk_is_not_asked_at_every_line(
    logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train_log"
    path.symlink_to(FULL)
    log_to_file(path)
    logger.info("one")
    path.unlink()  # from here on it would work
    for _ in range(100):
        logger.info("another")
    assert not path.exists()
    clock = logs.time.monotonic() + logs.SECONDS_BETWEEN_TRIES
    monkeypatch.setattr(logs.time, "monotonic", lambda: clock)
    logger.info("last")
    assert messages(path) == ["WARNING lines that could not be written and are missing here: 101", "INFO last"]


@pytest.mark.usefixtures("impatient")
def test_a_disk_that_fills_up_keeps_whole_what_was_written_before(
    logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        path = disk.path / "train_log"
        log_to_file(path)
        logger.info("first")
        disk.fill()
        written = 0
        while "not written" not in capsys.readouterr().err:  # the file has room up to the end of its page
            logger.info("%d %s", written, "x" * 500)
            written += 1
        logger.info("never seen")
        disk.free()
        logger.info("last")
        lines = messages(path)
    assert lines[0] == "INFO first"
    assert lines[1:written] == [f"INFO {number} {'x' * 500}" for number in range(written - 1)]
    assert f"INFO {written - 1} {'x' * 500}".startswith(lines[written])  # cut
    assert lines[written + 1 :] == [
        "WARNING lines that could not be written and are missing here: 2",
        "INFO last",
    ]


@pytest.mark.usefixtures("impatient")
def test_a_read_only_disk_is_told_once(
    logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        disk.read_only(True)
        log_to_file(disk.path / "train_log")
        for word in ("one", "two"):
            logger.info(word)
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        assert errors.endswith("Read-only file system; make its folder writable again: training goes on\n")
        disk.read_only(False)
        logger.info("three")
        assert messages(disk.path / "train_log")[-1] == "INFO three"


@pytest.mark.usefixtures("impatient")
def test_a_folder_that_vanishes_is_told_and_used_again_when_it_is_back(
    logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run" / "train_log"
    path.parent.mkdir()
    log_to_file(path)
    logger.info("one")
    path.unlink()
    path.parent.rmdir()
    logger.info("two")
    assert "No such file or directory; bring its folder back" in capsys.readouterr().err
    path.parent.mkdir()
    logger.info("three")
    assert messages(path)[1:] == ["INFO three"]


def test_the_end_says_what_is_missing(logger: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "train_log"
    path.symlink_to(FULL)
    log_to_file(path)
    logger.info("one")
    path.unlink()
    logger.handlers[-1].close()  # long before the time of the next try
    assert messages(path) == ["WARNING lines that could not be written and are missing here: 1"]


def test_closing_a_log_that_cannot_be_written_is_quiet(
    logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train_log"
    path.symlink_to(FULL)
    log_to_file(path)
    logger.info("one")
    capsys.readouterr()
    logger.handlers[-1].close()
    assert capsys.readouterr().err == ""


TALKS = """
import logging, sys, time
from pathlib import Path
from tqdm import tqdm
from utils.logs import bars_hidden, log_to_file, log_to_screen
log_to_screen()
log_to_file(Path(sys.argv[1]))
with tqdm(total=100, disable=bars_hidden(), mininterval=0) as bar:
    for number in range(100):
        logging.getLogger().info("line %d", number)
        bar.update()
        if number == 0:
            print("begun", flush=True)
            sys.stdin.readline()
print("done")
"""


def command(log: Path) -> list[str]:
    """A program that logs a hundred lines beside a progress bar; after the first it waits for a line of input."""
    return [sys.executable, "-W", "error", "-c", TALKS, str(log)]


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2> >(exit)"])
def test_a_screen_that_takes_nothing_stops_nothing(tmp_path: Path, redirection: str) -> None:
    path = tmp_path / "train_log"
    shell = ["bash", "-c", f'"$@" {redirection}', "bash", *command(path)]
    ended = subprocess.run(shell, cwd=ROOT, input="\n", capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "begun\ndone\n", "")
    assert messages(path) == [f"INFO line {number}" for number in range(100)]


def test_a_terminal_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "train_log"
    ours, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    with subprocess.Popen(
        command(path), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=terminal, text=True
    ) as process:
        os.close(terminal)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        shown = b""
        while b"1/100" not in shown:  # the bar, below the line
            assert select.select([ours], [], [], 60)[0], shown
            shown += os.read(ours, 4096)
        os.close(ours)
        out, _ = process.communicate("\n", timeout=60)
    assert b"line 0" in shown
    assert (process.returncode, out) == (0, "done\n")
    assert messages(path) == [f"INFO line {number}" for number in range(100)]


def test_the_screen_shows_lines_as_they_are(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    log_to_screen()
    logger.info("epoch %d", 1)
    assert capsys.readouterr().err == "epoch 1\n"
