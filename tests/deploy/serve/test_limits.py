from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from starlette.testclient import TestClient

from tests.deploy.conftest import MeanColour, png
from tests.deploy.serve.conftest import RED, form, wait_until

Serving = Callable[..., TestClient]


def test_large_bodies_are_refused_declared_or_not(serving: Serving) -> None:
    client = serving(max_body_mb=0.001)
    large = b"x" * 2000
    head = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    forms = {"Content-Type": "multipart/form-data; boundary=B"}
    for answer in (
        client.post("/embed", content=large),
        client.post("/embed", content=iter([large[:500]] * 4)),
        client.post("/embed", content=head + large, headers=forms),
        client.post("/gallery", content=iter([head, *[large[:500]] * 4]), headers=forms),
    ):
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
    for path in ("/embed", "/gallery"):
        answer = client.post(path, files=form(*[png(RED)] * 3))
        assert (answer.status_code, "2" in answer.json()["error"]) == (400, True)
    assert client.post("/embed", files=form(*[png(RED)] * 2)).status_code == 200
    assert client.post("/search", files=form(*[png(RED)] * 2)).status_code == 400


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
        assert "reid_waiting_images 5.0" in client.get("/metrics").text
        network.may_go_on.set()
        assert first.result().status_code == 200
        assert sorted(one.result().status_code for one in more) == [200] * 5 + [503] * 3
    assert network.batches == [1, 4, 1]


def test_a_token_is_required(serving: Serving) -> None:
    client = serving({"token": "0123456789abcdef"})
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic 0123456789abcdef"}):
        answer = client.post("/embed", content=png(RED), headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    # The page, which asks for the token, and the health check are open; what the service knows is not.
    assert [client.get(path).status_code for path in ("/", "/page.js", "/health")] == [200, 200, 200]
    for path in ("/model", "/metrics", "/cameras", "/gallery/0", "/gallery/0/image"):
        assert client.get(path).status_code == 401
    assert client.delete("/gallery/0").status_code == 401
    # It may be reached by any name, such as that of a reverse proxy.
    right = {"Authorization": "Bearer 0123456789abcdef", "Host": "reid.example", "Origin": "https://reid.example"}
    assert client.post("/embed", content=png(RED), headers=right).status_code == 200


def test_other_host_names_are_refused_without_a_token(client: TestClient) -> None:
    for host, status in (("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.example", 400)):
        assert client.get("/health", headers={"Host": host}).status_code == status


def test_pages_of_other_sites_are_refused_without_a_token(client: TestClient) -> None:
    for origin in ("http://evil.example", "http://127.0.0.1:9", "null"):
        answer = client.post("/gallery", content=png(RED), headers={"Origin": origin})
        assert answer.status_code == 403
    own = {"Origin": "http://127.0.0.1:8000", "Host": "127.0.0.1:8000"}
    assert client.post("/gallery", content=png(RED), headers=own).status_code == 201
