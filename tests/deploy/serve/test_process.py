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
from utils.errors import UserError


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


def test_a_service_that_others_could_reach_needs_a_token(exported: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(exported), "--gallery", str(tmp_path / "new"), "--host", "0.0.0.0"]
    run = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert "others could reach the service; give it a token" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0", "--token-file", "short"], "at least 16 letters"),
        (["--host", "0.0.0.0", "--token-file", "none"], "cannot be read"),
        (["--host", "0.0.0.0", "--token-file", "empty"], "is empty"),
        (["--rate", "-1"], "--rate: Input should be greater than 0, got -1"),
        (["--max-body-mb", "0"], "--max-body-mb: "),
        (["--model", "x.onnx"], "no such file"),
        (["--gallery", "short"], "cannot be made"),
    ],
)
def test_mistakes_are_told(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deploy.serve.__main__.log_to_screen", lambda: None)
    Path("short").write_text("short")
    Path("empty").touch()
    with pytest.raises(UserError, match=message):
        main(["--model", str(exported), "--gallery", "new", *arguments])
    assert not Path("new").exists()


def test_a_taken_address_is_told(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.serve.__main__.log_to_screen", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        arguments = ["--gallery", str(tmp_path / "new"), "--port", str(taken.getsockname()[1])]
        with pytest.raises(UserError, match="cannot be listened at"):
            main(["--model", str(exported), *arguments])


def test_endless_headers_and_idle_connections_are_ended(service: Service) -> None:
    port = int(service.address.rpartition(":")[2])
    endless, idle = (socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(2))
    with endless, idle:
        endless.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        with pytest.raises(ConnectionError):
            _send_much(endless)
        assert ask(f"{service.address}/health") == {"status": "ok"}
        assert idle.recv(1) == b""


def _send_much(connection: socket.socket) -> None:
    for _ in range(1000):
        connection.sendall(b"a" * 2**16)


def test_clients_that_do_not_read_do_not_keep_it_from_ending(service: Service) -> None:
    port = int(service.address.rpartition(":")[2])
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect(("127.0.0.1", port))
        deaf.sendall(b"GET /page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
        assert ask(f"{service.address}/health") == {"status": "ok"}
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=30) == 143
