"""Loggers of other packages: the real ones without a network, and with servers that are not there."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engine import sinks
from engine.sinks import check_loggers, open_sinks
from engine.sinks import process as process_module
from engine.sinks.process import LoggerProcess
from tests.conftest import Script
from utils.errors import ParamsError

ROOT = Path(__file__).resolve().parents[2]
PARAMS = {"epoch": 3, "lr": {"base_lr": 0.02}, **{f"key_{number}": number for number in range(120)}}
NAMES = ("wandb", "mlflow", "clearml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, and a home and a current folder for what the packages write."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_", "CLEARML_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "street"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder for temporary files, which is empty again at the end of the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


@pytest.fixture
def offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{folder.parent.parent}/mlruns")
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")


def record(name: str, folder: Path, first_step: int = 10) -> list[str]:
    """What a short training gives to a logger; returns the logger's id of it."""
    (folder / "model_best.pth").write_bytes(b"weights")
    (folder / "report.html").write_text("<p>report</p>")
    (sink,) = open_sinks([name], folder, PARAMS, 0)
    for step in (first_step, first_step + 10):
        sink.scalars({"train/loss": 1 / step, "evaluation/mAP": float("nan")}, step)
    sink.image("evaluation/rank_list", np.zeros((6, 5, 3), np.uint8), first_step)
    sink.flush()
    sink.file(folder / "model_best.pth")
    sink.file(folder / "report.html")
    sink.close()
    sink.scalars({"train/loss": 0.0}, 30)  # afterwards nothing happens
    return (folder / f"{name}.id").read_text().split()


def test_wandb_gets_everything(folder: Path, offline: None, temporary: None, caplog: pytest.LogCaptureFixture) -> None:
    (run_id,) = record("wandb", folder)
    (run,) = (folder / "wandb").glob("offline-run-*")
    content = (run / f"run-{run_id}.wandb").read_bytes()
    for words in (b"base_lr", b"train/loss", b"evaluation/rank_list"):
        assert words in content
    media = [path.name for path in run.rglob("*") if path.is_file()]
    assert any(name.endswith(".png") for name in media)
    assert any(name.endswith(".html") for name in media)
    assert caplog.messages == []
    # A resumed training goes on with the same run.
    assert record("wandb", folder, 20) == [run_id]


def test_mlflow_gets_everything(folder: Path, offline: None, temporary: None, caplog: pytest.LogCaptureFixture) -> None:
    (run_id,) = record("mlflow", folder)
    (run,) = (Path("mlruns") / "0").glob(run_id)
    assert (run / "params" / "lr.base_lr").read_text() == "0.02"
    assert (run / "params" / "key_119").read_text() == "119"
    artifacts = [path.name for path in (run / "artifacts").rglob("*")]
    assert {"model_best.pth", "report.html"} <= {*artifacts}
    assert any(name.endswith(".png") for name in artifacts)
    assert caplog.messages == []
    assert record("mlflow", folder, 20) == [run_id]
    points = [line.split() for line in (run / "metrics" / "train" / "loss").read_text().splitlines()]
    assert [(float(value), int(step)) for _, value, step in points] == [(0.1, 10), (0.05, 20), (0.05, 20), (1 / 30, 30)]


def test_clearml_gets_everything(
    folder: Path, offline: None, temporary: None, caplog: pytest.LogCaptureFixture
) -> None:
    (run_id,) = record("clearml", folder)
    archive = zipfile.ZipFile(Path.home() / ".clearml" / "cache" / "offline" / f"{run_id}.zip")
    assert "model_best.pth" in "".join(archive.namelist())
    text = archive.read("metrics.jsonl").decode()
    for words in ("loss", "rank_list"):
        assert words in text
    assert "base_lr" in archive.read("task.json").decode()
    assert json.loads(archive.read("task.json"))["name"] == "street"
    assert caplog.messages == []


def test_clearml_does_not_fork(folder: Path, offline: None) -> None:
    sink = LoggerProcess("clearml", folder, PARAMS)
    process, deadline = sink._process, time.monotonic() + 60
    assert process is not None
    while not (folder / "clearml.id").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    # It may run git meanwhile, but has no copy of itself.
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    children = [Path(f"/proc/{child}/cmdline") for task in tasks for child in task.read_text().split()]
    copies = [path.read_text() for path in children if path.exists()]
    sink.close()
    assert (folder / "clearml.id").exists()
    assert not [command for command in copies if "engine.sinks.process" in command]


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that takes every connection and never answers, as of a network that loses packets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name in ("WANDB_BASE_URL", "MLFLOW_TRACKING_URI", "CLEARML_API_HOST"):
            monkeypatch.setenv(name, url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "key")
        monkeypatch.setenv("CLEARML_API_SECRET_KEY", "secret")
        yield


@pytest.mark.parametrize("name", NAMES)
def test_a_server_that_does_not_answer_costs_nothing_but_a_little_time_at_the_end(
    name: str,
    folder: Path,
    silent_server: None,
    temporary: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(process_module, "NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(process_module, "OPEN_SECONDS", 1.0)
    start = time.monotonic()
    sink = LoggerProcess(name, folder, PARAMS)
    for step in range(200):
        sink.scalars({"train/loss": 0.0}, step)
        sink.image("evaluation/rank_list", np.zeros((100, 50, 3), np.uint8), step)
    assert time.monotonic() - start < 2
    sink.close()
    assert time.monotonic() - start < 10
    assert [message for message in caplog.messages if "has ended: did not end in time" in message]
    assert len([entry for entry in caplog.records if entry.levelname == "WARNING"]) == 1


@pytest.mark.parametrize("num_records", [0, 3])
def test_a_logger_that_fails_ends_with_one_warning_that_says_why(
    folder: Path, caplog: pytest.LogCaptureFixture, num_records: int
) -> None:
    sink = LoggerProcess("wandb", folder, PARAMS)  # without an account
    process = sink._process
    assert process is not None
    process.wait(60)
    for step in range(num_records):
        sink.scalars({"train/loss": 0.0}, step)
    sink.close()
    (message,) = caplog.messages
    assert "No API key configured" in message
    assert str(folder / "wandb.log") in message


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [("MAX_WAITING", 3, "is 3 records behind"), ("MAX_WAITING_BYTES", 2**20, "is 1 MiB of images behind")],
)
def test_a_logger_that_is_too_far_behind_is_given_up(
    folder: Path,
    silent_server: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    limit: str,
    value: int,
    reason: str,
) -> None:
    monkeypatch.setattr(process_module, limit, value)
    sink = LoggerProcess("mlflow", folder, PARAMS)
    for step in range(9):
        sink.image("evaluation/rank_list", np.zeros((500, 500, 3), np.uint8), step)
    (message,) = caplog.messages
    assert reason in message
    assert sink._records.empty()


def test_what_was_given_before_a_kill_of_the_training_is_kept(folder: Path, offline: None) -> None:
    program = (
        "import os, signal, sys, time; from pathlib import Path; from engine.sinks.process import LoggerProcess\n"
        "sink = LoggerProcess('mlflow', Path(sys.argv[1]), {})\n"
        "sink.scalars({'train/loss': 0.5}, 7)\n"
        "while not sink._records.empty(): time.sleep(0.01)\n"
        "time.sleep(0.2); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, str(folder)]
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while not (found := list(Path("mlruns").rglob("loss"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [path.read_text().split()[1:] for path in found] == [["0.5", "7"]]


@pytest.mark.slow
def test_a_training_is_logged_with_its_best_model_and_report(
    folder: Path, offline: None, script: Script, make_market: Callable[[Path], Path]
) -> None:
    make_market(script.folder / "market")
    script.write_params(loggers=["tensorboard", "wandb", "mlflow"], epoch=1)
    process = script.succeed("train.py", "--sub_working_dir", "logged")
    assert not [line for line in process.stderr.lower().splitlines() if "wandb" in line or "mlflow" in line]
    run = script.folder / "runs" / "logged"
    assert list((run / "wandb").glob("offline-run-*"))
    (logged,) = (script.folder / "mlruns" / "0").glob((run / "mlflow.id").read_text().strip())
    assert (logged / "tags" / "mlflow.runName").read_text() == "logged"
    artifacts = {path.name for path in (logged / "artifacts").iterdir()}
    assert {"model_best.pth", "report.html"} <= artifacts
    assert (logged / "metrics" / "evaluation" / "mAP").read_text().count("\n") == 2
    assert "<html" in (run / "report.html").read_text()
    assert sorted(run.glob("events.out.tfevents.*"))


def test_a_missing_package_is_a_mistake_that_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    check_loggers(["tensorboard"])
    with pytest.raises(ParamsError, match="pip install wandb"):
        check_loggers(["tensorboard", "wandb"])


def test_only_named_loggers_are_imported() -> None:
    program = "import sys; import engine.sinks; print([name for name in sys.modules if name in ('wandb', 'mlflow')])"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
