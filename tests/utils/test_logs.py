import logging
import os
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from tqdm import tqdm

from utils.interrupts import Interrupted
from utils.logs import log_to_file, log_to_screen

ROOT = Path(__file__).resolve().parents[2]
FULL = Path("/dev/full")  # every write to it fails for lack of room


@pytest.fixture
def logger() -> logging.Logger:
    """The root logger, which shows everything; tests/conftest.py restores it."""
    logging.getLogger().setLevel(logging.INFO)
    return logging.getLogger()


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


def test_a_name_that_is_no_text_can_be_logged(logger: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "train_log"
    log_to_file(path)
    name = os.fsdecode(b"/data/M\xfcnchen")
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 1, "reading %s", (name,), None)
    # Past the other handlers: what pytest keeps of the log must be text.
    logging.getLogger().handlers[-1].handle(record)
    assert messages(path) == ["INFO reading /data/M\\udcfcnchen"]


def test_a_full_disk_is_told_once_and_the_log_goes_on_when_there_is_room(
    logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train_log"
    path.symlink_to(FULL)
    log_to_file(path)
    for word in ("one", "two", "three"):
        logger.info(word)
    (told,) = capsys.readouterr().err.splitlines()
    assert str(path) in told
    assert "No space left on device; free some space; training continues" in told
    path.unlink()
    logger.info("four")
    logger.info("five")
    assert messages(path) == ["INFO four", "INFO five"]


def test_a_folder_that_is_not_there_is_told_once(
    logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_file(tmp_path / "run" / "train_log")
    logger.info("one")
    logger.info("two")
    assert capsys.readouterr().err.count("bring its folder back") == 1
    logger.handlers[-1].close()
    assert capsys.readouterr().err == ""


TALKS = """
import logging, sys, time
from pathlib import Path
from tqdm import tqdm
from tqdm import tqdm

from utils.interrupts import Interrupted
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


def test_a_signal_while_a_line_waits_for_the_screen_is_an_interrupt(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted(signal.SIGTERM)

    log_to_screen()
    monkeypatch.setattr(tqdm.get_lock().locks[0], "acquire", interrupted)
    with pytest.raises(Interrupted) as stopped:
        logger.info("a line")
    assert stopped.value.__context__ is None
