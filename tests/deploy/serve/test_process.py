"""The service as a user starts it: python -m deploy.serve."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from deploy.predictor import Predictor
from deploy.serve.__main__ import main
from tests.conftest import ROOT
from tests.deploy.conftest import Model
from utils.cli import USER_MISTAKE, exit_code_of


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "deploy.serve", *arguments]


class Service(NamedTuple):
    """A running process, and where it answers."""

    process: subprocess.Popen[str]
    address: str


@pytest.fixture
def service(exported: Path, model: Model, tmp_path: Path) -> Iterator[Service]:
    gallery = Path(model.params.batches_dir)
    arguments = ["--model", str(exported), "--gallery", str(gallery), "--index", str(tmp_path / "index"), "--port", "0"]
    with subprocess.Popen(command(*arguments), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"answering at (http://127\.0\.0\.1:\d+)", line):
                break
        else:
            pytest.fail("".join(lines))
        yield Service(process, found[1])
        process.kill()


def ask(address: str, body: bytes | None = None) -> dict[str, object]:
    with urllib.request.urlopen(urllib.request.Request(address, body)) as answer:
        return json.load(answer)


def test_it_answers_until_it_is_interrupted(service: Service, exported: Path, images: list[Path]) -> None:
    assert ask(f"{service.address}/health") == {"status": "ok"}
    embeddings = ask(f"{service.address}/embed", images[0].read_bytes())["embeddings"]
    assert np.array(embeddings) == pytest.approx(Predictor(exported)([images[0]]), abs=1e-5)
    service.process.send_signal(signal.SIGINT)
    assert service.process.stderr is not None
    rest = service.process.stderr.read()
    assert service.process.wait(timeout=20) == 130
    assert "Traceback" not in rest


def test_a_gallery_is_served_by_one_process(service: Service, exported: Path, model: Model, tmp_path: Path) -> None:
    arguments = ["--model", str(exported), "--gallery", model.params.batches_dir, "--index", str(tmp_path / "index")]
    second = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert "busy with a gallery" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "token"),
        (["--host", "0.0.0.0", "--token-file", "short"], "at least 16 letters"),
        (["--token-file", "none"], "none: No such file"),
        (["--token-file", "empty"], "at least 16 letters"),
        (["--rate", "-1"], "--rate: Input should be greater than 0, got -1"),
        (["--max-body-mb", "0"], "--max-body-mb: "),
        (["--model", "x.onnx"], "no such file"),
        (["--gallery", "short"], "short: File exists"),
        (["--port", "TAKEN"], "cannot bind"),
    ],
)
def test_mistakes_are_reported(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deploy.serve.__main__.log_to_screen", lambda: None)
    Path("short").write_text("short")
    Path("empty").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = ["--model", str(exported), "--gallery", "new", *(port if one == "TAKEN" else one for one in arguments)]
        assert exit_code_of(lambda: main(line)) == USER_MISTAKE
    assert message in caplog.text
    assert Path("new").exists() == ("--port" in arguments)


def test_clients_that_do_not_read_do_not_delay_the_shutdown(service: Service) -> None:
    port = int(service.address.rpartition(":")[2])
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect(("127.0.0.1", port))
        deaf.sendall(b"GET /page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
        assert ask(f"{service.address}/health") == {"status": "ok"}
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=30) == 143
