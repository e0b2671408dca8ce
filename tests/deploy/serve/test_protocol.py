"""Clients that send too much, too slowly or nothing, or do not read."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from deploy.serve.protocol import MAX_HEADER, BoundedProtocol
from tests.deploy.serve.conftest import wait_until

HEAD = b"Host: x\r\n"


class Application:
    """Answers with the number of bytes of the body; /large without end, /long after a while, /early before the body."""

    def __init__(self) -> None:
        self.under_way = 0
        self.errors: list[Exception] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.under_way += 1
        try:
            await self._answer(scope["path"], receive, send)
        except Exception as error:
            self.errors.append(error)
        finally:
            self.under_way -= 1

    async def _answer(self, path: str, receive: Receive, send: Send) -> None:
        length, more = 0, path != "/early"
        while more:
            message = await receive()
            length, more = length + len(message["body"]), message["more_body"]
        if path == "/long":
            await asyncio.sleep(0.8)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100_000 if path == "/large" else 0):
            await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
        await send({"type": "http.response.body", "body": f"{length} bytes;".encode()})


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def client(application: Application, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A new connection to a server with timeouts of half a second."""
    monkeypatch.setattr("deploy.serve.protocol.HEADER_SECONDS", 0.5)
    monkeypatch.setattr("deploy.serve.protocol.READING_SECONDS", 0.5)
    config = uvicorn.Config(
        application, http=BoundedProtocol, timeout_keep_alive=1, log_level="critical", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        with socket.create_connection(listening.getsockname(), timeout=5) as connection:
            yield connection
        server.should_exit = True
        thread.join(timeout=10)
    assert not thread.is_alive()


def rest_of(client: socket.socket) -> bytes:
    """Everything received until the server closes the connection."""
    found = bytearray()
    while content := client.recv(2**16):
        found += content
    return bytes(found)


def num_taken(client: socket.socket, piece: bytes, most: int, every: float = 0.0) -> int:
    """Send a piece repeatedly until the server closes the connection; how many were sent."""
    for number in range(most):
        time.sleep(every)
        try:
            client.sendall(piece)
        except ConnectionError:
            return number
    return most


def test_long_headers_are_refused(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\n" + HEAD + b"X: ")
    assert 0 < num_taken(client, MAX_HEADER * b"a", 1000) < 200


def test_many_short_headers_are_refused(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\n" + HEAD)
    for number in range(MAX_HEADER // 1000 + 2):
        client.sendall(f"x-{number}: ".encode() + 1000 * b"a" + b"\r\n")
    assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_long_bodies_and_many_requests_are_accepted(client: socket.socket) -> None:
    body = bytes(10 * MAX_HEADER)
    request = b"POST / HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    client.sendall(3 * request)
    assert rest_of(client).count(b"%d bytes;" % len(body)) == 3


def test_a_silent_connection_is_closed(client: socket.socket) -> None:
    start = time.monotonic()
    assert rest_of(client) == b""
    assert 0.3 < time.monotonic() - start < 3


@pytest.mark.parametrize("slow", ["headers", "body"])
def test_slow_headers_and_the_rest_of_an_answered_body_time_out(client: socket.socket, slow: str) -> None:
    if slow == "body":
        client.sendall(b"POST /early HTTP/1.1\r\n" + HEAD + b"Content-Length: 1000000\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
    else:
        client.sendall(b"GET / HTTP/1.1\r\n")
    assert 2 < num_taken(client, b"x: y\r\n", 30, every=0.1) < 20


def test_a_connection_is_kept_alive_between_slow_answers(client: socket.socket) -> None:
    for _ in range(2):
        client.sendall(b"GET /long HTTP/1.1\r\n" + HEAD + b"\r\n")
        answer = b""
        while not answer.endswith(b"0 bytes;\r\n0\r\n\r\n"):
            answer += client.recv(1000)
    assert rest_of(client) == b""


def test_a_client_that_does_not_read_times_out(client: socket.socket, application: Application) -> None:
    client.sendall(b"GET /large HTTP/1.1\r\n" + HEAD + b"\r\n")
    wait_until(lambda: application.under_way == 1)
    wait_until(lambda: application.under_way == 0)
    # Only what the sockets have buffered is received.
    assert len(rest_of(client)) < 10_000 * 2**16


def test_pipelined_requests_of_a_closed_connection_are_dropped(client: socket.socket, application: Application) -> None:
    client.sendall(50 * (b"GET /large HTTP/1.1\r\n" + HEAD + b"\r\n"))
    wait_until(lambda: application.under_way == 1)
    client.close()
    wait_until(lambda: application.under_way == 0)
    time.sleep(0.1)
    assert application.under_way == 0
    assert application.errors == []
