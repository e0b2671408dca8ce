"""The service as a user starts it: python -m deploy.serve."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from deploy.networks import OnnxNetwork
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
    gallery = Path(model.params.sources[0])
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


def test_the_network_leaves_idle_cpus_to_the_requests(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictors: list[Predictor] = []
    monkeypatch.setattr("deploy.serve.app.create_app", lambda predictor, *_, **__: predictors.append(predictor))
    monkeypatch.setattr("deploy.serve.app.serve", lambda *_: None)
    main(["--model", str(exported), "--gallery", str(tmp_path)])
    (network,) = [predictor.network for predictor in predictors]
    assert isinstance(network, OnnxNetwork)
    options = network.session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(service.address.rpartition(":")[2])), timeout=20)


def exchange(service: Service, content: bytes) -> bytes:
    """Send bytes on a connection of their own; everything that is answered until it is closed."""
    with connect(service) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(2**16), b""))


def test_it_answers_until_it_is_interrupted(service: Service, exported: Path, images: list[Path]) -> None:
    assert ask(f"{service.address}/health") == {"status": "ok"}
    embeddings = ask(f"{service.address}/embed", images[0].read_bytes())["embeddings"]
    assert np.array(embeddings) == pytest.approx(Predictor(exported)([images[0]]), abs=1e-5)
    for path in ("/", "/no/such/path"):
        headers = exchange(service, f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()).lower()
        assert b"content-security-policy: default-src 'self';" in headers
        assert b"x-content-type-options: nosniff" in headers
    service.process.send_signal(signal.SIGINT)
    assert service.process.stderr is not None
    rest = service.process.stderr.read()
    assert service.process.wait(timeout=20) == 130
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "token"),
        (["--host", "0.0.0.0", "--token-file", "short"], "at least 16 letters"),
        (["--token-file", "none"], "none: No such file"),
        (["--token-file", "empty"], "at least 16 letters"),
        (["--host", "0.0.0.0", "--token-file", "empty"], "at least 16 letters"),
        (["--model", "x.onnx"], "no such file"),
        (["--gallery", "short"], "short: File exists"),
        (["--port", "TAKEN"], "cannot bind"),
        (["--max-images", "300"], "--max-waiting"),
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


def test_what_is_too_long_or_no_http_is_refused_while_it_arrives(service: Service) -> None:
    head = b"POST /embed HTTP/1.1\r\nHost: localhost\r\n"
    assert exchange(service, head + b"Content-Length: 99999999\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    assert exchange(service, b"no HTTP at all\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    chunk = b"4000\r\n" + 2**14 * b"a" + b"\r\n"
    for start, piece in ((head + b"X: ", 2**14 * b"a"), (head + b"Transfer-Encoding: chunked\r\n\r\n", chunk)):
        sent = 0
        with connect(service) as connection, suppress(ConnectionError):
            connection.sendall(start)
            while sent < 2**26:
                connection.sendall(piece)
                sent += len(piece)
        # The limits are 64 KiB of headers and 16 MiB of a body; the rest is what the sockets have buffered.
        assert sent < 2**25
    assert ask(f"{service.address}/health") == {"status": "ok"}


def test_clients_that_do_not_read_do_not_delay_the_shutdown(service: Service) -> None:
    port = int(service.address.rpartition(":")[2])
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect(("127.0.0.1", port))
        deaf.sendall(b"GET /page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
        assert ask(f"{service.address}/health") == {"status": "ok"}
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=30) == 143


@pytest.mark.parametrize("package", ["uvicorn", "fastapi", "python_multipart", "prometheus_client"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("deploy.serve.__main__.log_to_screen", lambda: None)
    for name in [name for name in sys.modules if name.startswith("deploy.serve.") and name != main.__module__]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    line = ["--model", "x.onnx", "--gallery", str(tmp_path)]
    assert exit_code_of(lambda: main(line)) == USER_MISTAKE
    assert f"needs the package {package}" in caplog.text
    assert "pip install -r requirements-deploy.txt" in caplog.text
