import asyncio
import base64
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from deploy.serve.errors import RequestError
from deploy.serve.limits import Limits
from deploy.serve.middleware import Middleware, is_loopback
from deploy.serve.request_parsing import cancel_on_disconnect, read_body
from tests.deploy.conftest import MeanColour, png
from tests.deploy.serve.conftest import RED, direction, wait_until

Serving = Callable[..., TestClient]


def test_large_bodies_are_refused_declared_or_not(serving: Serving) -> None:
    client = serving(max_body_mb=0.001)
    large = b"x" * 2000
    declared = client.post("/embed", content=large)
    streamed = client.post("/embed", content=iter([large[:500]] * 4))
    for answer in (declared, streamed):
        assert answer.status_code == 413
        assert "1,048" in answer.json()["error"]
        assert answer.headers["connection"] == "close"
    assert client.post("/embed", content=png(RED)).status_code == 200


def test_images_of_too_many_pixels_are_refused_before_they_are_decoded(serving: Serving) -> None:
    client = serving(max_pixels=10_000)
    assert client.post("/embed", content=png(RED, (100, 100))).status_code == 200
    answer = client.post("/embed", content=png(RED, (100, 101)))
    assert answer.status_code == 422
    assert "100 x 101 is more than 10,000 pixels" in answer.json()["error"]


def test_the_number_of_images_is_limited(serving: Serving) -> None:
    client = serving(max_images=2)
    body = {"images": [base64.b64encode(png(RED)).decode()] * 3}
    assert client.post("/embed", json=body).status_code == 413
    assert client.post("/embed", json={"images": body["images"][:2]}).status_code == 200


def test_the_rate_of_requests_is_limited(serving: Serving) -> None:
    client = serving(rate=2.0, burst=3)
    assert [client.get("/health").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    answer = client.get("/health")
    assert answer.headers["retry-after"] == "1"
    time.sleep(0.6)
    assert client.get("/health").status_code == 200


def test_rates_are_counted_per_client_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.serve.middleware.REMEMBERED", 2)
    guard = Middleware(None, Limits(rate=1.0, burst=1), None, (), "")  # pyright: ignore[reportArgumentType]
    assert [guard._wait("a", 0.0), guard._wait("a", 0.25), guard._wait("b", 0.25)] == [0.0, 0.75, 0.0]
    assert guard._wait("a", 1.0) == 0.0
    guard._wait("c", 1.0)
    assert len(guard._allowances) == 2  # b was quiet longest
    assert guard._wait("b", 1.0) == 0.0


def test_the_queue_is_limited(serving: Serving, network: MeanColour) -> None:
    client = serving(max_waiting=5)
    network.may_go_on.clear()
    with ThreadPoolExecutor(12) as pool:
        # One is being embedded; of the others five may wait.
        first = pool.submit(client.post, "/embed", content=png(RED))
        wait_until(lambda: network.batches == [1])
        more = [pool.submit(client.post, "/embed", content=png(RED)) for _ in range(8)]
        wait_until(lambda: sum(one.done() for one in more) == 3)
        assert all(one.result().status_code == 503 for one in more if one.done())
        assert all(one.result().headers["retry-after"] == "1" for one in more if one.done())
        network.may_go_on.set()
        assert first.result().status_code == 200
        assert sorted(one.result().status_code for one in more) == [200] * 5 + [503] * 3


def test_waiting_images_are_embedded_in_one_batch(client: TestClient, network: MeanColour) -> None:
    colours = [(40 * place + 10, 255 - 30 * place, 7 * place) for place in range(6)]
    network.may_go_on.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.post, "/embed", content=png(RED))
        wait_until(lambda: network.batches == [1])
        others = [pool.submit(client.post, "/embed", content=png(colour)) for colour in colours]
        wait_until(lambda: "reid_waiting_images 6.0" in client.get("/metrics").text)
        network.may_go_on.set()
        assert first.result().status_code == 200
        for colour, other in zip(colours, others, strict=True):
            assert np.array(other.result().json()["embeddings"][0]) == pytest.approx(direction(colour), abs=1e-6)
    assert network.batches == [1, 4, 2]


def test_the_number_of_requests_at_once_is_limited(serving: Serving, network: MeanColour) -> None:
    client = serving(connections=2)
    network.may_go_on.clear()
    with ThreadPoolExecutor(4) as pool:
        held = [pool.submit(client.post, "/embed", content=png(RED)) for _ in range(2)]
        guard = client.app
        assert isinstance(guard, Middleware)
        wait_until(lambda: guard._num_active == 2)
        assert client.get("/health").status_code == 503
        network.may_go_on.set()
        assert [one.result().status_code for one in held] == [200, 200]
    assert client.get("/health").status_code == 200


def test_a_slow_body_is_refused() -> None:
    async def receive() -> dict[str, object]:
        await asyncio.sleep(0.2)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read() -> bytes:
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        return await read_body(request, Limits(body_seconds=0.3))

    with pytest.raises(RequestError, match=r"within 0\.3 s") as error:
        asyncio.run(read())
    assert error.value.status == 408


def test_work_is_cancelled_when_the_client_disconnects() -> None:
    cancelled: list[bool] = []

    async def receive() -> dict[str, object]:
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def work() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def ask() -> None:
        try:
            await cancel_on_disconnect(Request({"type": "http", "method": "POST", "headers": []}, receive), work())
        finally:
            await asyncio.sleep(0)

    with pytest.raises(RequestError, match="disconnected"):
        asyncio.run(asyncio.wait_for(ask(), timeout=5))
    assert cancelled == [True]


def test_a_token_is_required(serving: Serving) -> None:
    client = serving({"token": "0123456789abcdef"})
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic 0123456789abcdef"}):
        answer = client.post("/embed", content=png(RED), headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    # The page, which asks for the token, and the health check are open; nothing else is.
    assert [client.get(path).status_code for path in ("/", "/page.js", "/health")] == [200, 200, 200]
    for path in ("/model", "/metrics", "/cameras", "/gallery/0", "/gallery/0/image", "/openapi.json"):
        assert client.get(path).status_code == 401
    right = {"Authorization": "Bearer 0123456789abcdef"}
    assert client.post("/embed", content=png(RED), headers=right).status_code == 200


def test_other_host_names_are_refused(serving: Serving) -> None:
    client = serving({"hosts": {"127.0.0.1", "localhost", "::1"}})
    for host, status in (("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.example", 421)):
        assert client.get("/health", headers={"Host": host}).status_code == status


def test_pages_of_other_sites_are_refused(client: TestClient) -> None:
    for origin in ("http://evil.example", "http://127.0.0.1:9", "null"):
        answer = client.post("/gallery", content=png(RED), headers={"Origin": origin})
        assert answer.status_code == 403
    own = {"Origin": "http://127.0.0.1:8000", "Host": "127.0.0.1:8000"}
    assert client.post("/gallery", content=png(RED), headers=own).status_code == 201


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
