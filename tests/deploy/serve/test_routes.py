import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from deploy.gallery.gallery import Gallery
from deploy.gallery.items import NoSpaceError
from tests.deploy.conftest import MeanColour, png
from tests.deploy.serve.conftest import BLUE, GREEN, RED, Colour, direction, form
from tests.deploy.test_card import CARD
from utils.errors import DataError


def distance(one: Colour, other: Colour) -> float:
    return 1 - float(direction(one) @ direction(other))


def test_an_image_is_embedded(client: TestClient) -> None:
    answer = client.post("/embed", content=png(RED), headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    assert answer.json()["dim"] == 3
    assert answer.json()["model"] == "digest"
    assert np.array(answer.json()["embeddings"]) == pytest.approx(direction(RED)[None], abs=1e-6)


def test_several_images_are_embedded_in_order_as_binary_floats(client: TestClient) -> None:
    colours = [RED, GREEN, BLUE, RED, GREEN, BLUE]
    answer = client.post("/embed", files=form(*map(png, colours)), headers={"Accept": "application/octet-stream"})
    assert answer.headers["x-shape"] == "6,3"
    rows = np.frombuffer(answer.content, "<f4").reshape(6, 3)
    assert rows == pytest.approx(np.stack([direction(colour) for colour in colours]), abs=1e-6)


def test_the_files_of_a_form_are_embedded_in_order(client: TestClient) -> None:
    colours = [RED, GREEN, BLUE, RED, GREEN, BLUE]
    answer = client.post("/embed", files=form(*map(png, colours)))
    assert answer.status_code == 200
    assert np.array(answer.json()["embeddings"]) == pytest.approx(np.stack([*map(direction, colours)]), abs=1e-6)


@pytest.mark.parametrize("size", [8, 1000])
def test_the_file_of_a_form_is_searched_for_whatever_its_size(client: TestClient, size: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")  # the larger one has 3 MB
    answers = [
        client.post("/search?k=2", files=form(content.getvalue())),
        client.post("/search?k=2", content=content.getvalue()),
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert len(answers[0].json()["matches"]) == 2


def test_a_search_ranks_the_gallery(client: TestClient) -> None:
    orange = (250, 120, 20)
    answer = client.post("/search", content=png(orange)).json()
    assert answer["gallery"] == 3
    names = [match["name"] for match in answer["matches"]]
    assert names == ["0001_c1_a.png", "0002_c2_b.png", "deeper/0003_c3_c.png"]
    expected = [distance(orange, colour) for colour in (RED, GREEN, BLUE)]
    assert [match["distance"] for match in answer["matches"]] == pytest.approx(expected, abs=1e-5)
    assert [match["camid"] for match in answer["matches"]] == [1, 2, 3]


def test_a_gallery_image_is_searched_for_without_itself(client: TestClient) -> None:
    first = client.post("/search", content=png(RED)).json()["matches"][0]
    matches = client.post("/search?k=2", json={"id": first["id"]}).json()["matches"]
    assert [match["name"] for match in matches] == ["deeper/0003_c3_c.png", "0002_c2_b.png"]


def test_filters_narrow_a_search(client: TestClient) -> None:
    def names(query: str) -> list[str]:
        found = client.post(f"/search?{query}", content=png(RED)).json()["matches"]
        return sorted(match["name"][:4] for match in found)

    assert names("camid=2&camid=3") == ["0002", "deep"]
    assert names("k=1") == ["0001"]
    assert names(f"max_distance={distance(RED, BLUE) + 1e-4}") == ["0001", "deep"]
    assert names("start=4e9") == []
    assert names("end=1") == []


def test_images_are_added_shown_and_removed(client: TestClient) -> None:
    content = png((200, 200, 0))
    added = client.post("/gallery?name=new&camid=7&time=12.5", content=content)
    assert added.status_code == 201
    item = added.json()
    assert (item["name"], item["camid"], item["time"]) == ("new", 7, 12.5)
    assert client.get(f"/gallery/{item['id']}").json() == item
    assert client.get(item["image"]).content == content
    assert client.get(item["image"]).headers["content-type"] == "image/png"
    assert client.post("/search?k=1", content=content).json()["matches"][0]["id"] == item["id"]
    assert client.get("/cameras").json() == {"cameras": [1, 2, 3, 7]}
    again = client.post("/gallery?name=new", content=content)
    assert again.status_code == 409
    assert "new: is in the gallery already" in again.json()["error"]
    assert client.delete(f"/gallery/{item['id']}").status_code == 204
    for ask in (client.get, client.delete):
        assert ask(f"/gallery/{item['id']}").status_code == 404
    for unknown in (item["id"], -1, 2**64):
        assert client.post("/search", json={"id": unknown}).status_code == 404


def test_an_image_without_a_name_gets_one_of_its_content(client: TestClient) -> None:
    names = {client.post("/gallery", content=png(colour)).json()["name"] for colour in ((1, 2, 3), (3, 2, 1))}
    assert len(names) == 2
    assert all(name.startswith("upload-") for name in names)
    assert client.post("/gallery", content=png((1, 2, 3))).status_code == 409


def test_several_images_are_added_by_a_form_or_none(client: TestClient) -> None:
    contents = [png((1, 2, 3)), png((3, 2, 1))]
    answer = client.post("/gallery?camid=4&time=2.5", files=form(*contents))
    assert answer.status_code == 201
    added = answer.json()["images"]
    assert [(one["name"], one["camid"], one["time"]) for one in added] == [("0.png", 4, 2.5), ("1.png", 4, 2.5)]
    assert [client.get(one["image"]).content for one in added] == contents
    # A name that is taken, one name for several images, and what is no image.
    for path, files, status in (
        ("/gallery", [*form(png((9, 9, 9)), name="image")], 409),
        ("/gallery?name=x", form(*contents), 422),
        ("/gallery", [("image", ("new.png", png(RED))), ("image", ("bad.png", b"no image"))], 422),
        ("/gallery", [("image", ("new.png", png(RED))), ("image", ("new.png", png(BLUE)))], 422),
    ):
        assert client.post(path, files=files).status_code == status
    assert client.get("/model").json()["gallery"] == 5


def test_images_outside_the_folder_are_not_shown(client: TestClient, folder: Path) -> None:
    ids = {match["name"]: match for match in client.post("/search", content=png(RED)).json()["matches"]}
    inner = ids["deeper/0003_c3_c.png"]["image"]
    assert client.get(inner).content == (folder / "deeper/0003_c3_c.png").read_bytes()
    # What was a file of the folder becomes a link to somewhere else.
    secret = folder.parent / "secret.png"
    secret.write_bytes(png(BLUE))
    (folder / "0001_c1_a.png").unlink()
    (folder / "0001_c1_a.png").symlink_to(secret)
    assert client.get(ids["0001_c1_a.png"]["image"]).status_code == 404
    (folder / "0002_c2_b.png").unlink()
    assert client.get(ids["0002_c2_b.png"]["image"]).json() == {"error": "its file no longer exists"}
    assert client.get("/gallery/..%2f..%2fsecret.png/image").status_code in (404, 422)


def test_the_service_shows_its_model_and_metrics(client: TestClient, network: MeanColour) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    model = client.get("/model").json()
    assert (model["model"], model["dim"], model["size"], model["gallery"]) == ("digest", 3, [8, 4], 3)
    assert (model["metrics"], model["thresholds"]) == ({}, [])
    network.card = CARD  # pyright: ignore[reportAttributeAccessIssue]
    model = client.get("/model").json()
    assert (model["metrics"], model["thresholds"][0]) == ({"mAP": 0.8}, {"far": 0.1, "tar": 0.9, "distance": 0.3})
    client.post("/embed", content=png(RED))
    client.get("/no/such/path")
    text = client.get("/metrics").text
    assert 'reid_request_seconds_count{route="/embed",status="200"} 1.0' in text
    assert "no/such" not in text
    assert "reid_batch_images_count 1.0" in text
    assert "reid_gallery_images 3.0" in text
    assert "reid_waiting_images 0.0" in text


def test_openapi_lists_the_routes_and_pages_load_nothing_from_elsewhere(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/embed", "/search", "/gallery", "/gallery/{id}", "/health", "/metrics"} <= paths.keys()
    for path in ("/", "/page.css", "/page.js", "/docs", "/docs.js"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "//" not in answer.text.replace("// ", "").replace("http://www.w3.org", "")


def broken() -> dict[str, bytes]:
    """Bodies that are no image."""
    content = io.BytesIO()
    Image.new("RGB", (4, 8)).save(content, "GIF")
    return {"empty": b"", "text": b"hello", "truncated": png(RED, (64, 64))[:-60], "GIF": content.getvalue()}


@pytest.mark.parametrize("kind", broken())
@pytest.mark.parametrize("path", ["/embed", "/search", "/gallery"])
def test_what_is_no_image_is_refused_with_a_reason(
    client: TestClient, network: MeanColour, path: str, kind: str
) -> None:
    answer = client.post(path, content=broken()[kind])
    assert answer.status_code == 422
    assert answer.json().keys() == {"error"}
    assert network.batches == []
    assert client.post("/embed", content=png(RED)).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/embed", b"{", "not an image"),
        ("/search", b"{", "JSON"),
        ("/search", b"[" * 100_000, "JSON"),
        ("/search", b"[]", "object"),
        ("/search", b'{"ids": 7}', "id: "),
        ("/search", b'{"id": "7"}', "id: "),
        ("/search", b'{"id": true}', "id: "),
        ("/search?k=0", b'{"id": 0}', "k: "),
        ("/search?k=x", b'{"id": 0}', "k: "),
        ("/search?k=1001", b'{"id": 0}', "1000"),
        ("/search?start=nan", b'{"id": 0}', "start: "),
        (f"/search?camid={2**63}", b'{"id": 0}', "camid"),
        ("/gallery?camid=-1", b"", "camid: "),
        ("/gallery", b"{}", "not an image"),
    ],
)
def test_malformed_requests_are_refused_with_a_reason(client: TestClient, path: str, body: bytes, reason: str) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("path", ["/search", "/gallery"])
def test_an_image_without_an_embedding_is_refused_with_a_reason(
    client: TestClient, network: MeanColour, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "embed", lambda pixels: np.zeros((len(pixels), 3), np.float32))
    answer = client.post(path, content=png(RED))
    assert answer.status_code == 422
    assert answer.json() == {"error": "the embedding of the image is 0, which has no neighbours"}


def test_one_bad_image_of_several_is_named(client: TestClient) -> None:
    answer = client.post("/embed", files=form(png(RED), b"no image"))
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("image 1: ")


HEAD = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 422, "end"),
        (b"--B--", 422, "files"),
        (HEAD + png(RED), 422, "end"),
        (HEAD + png(RED) + b"\r\n--B\r\n" + HEAD[5:] + png(RED)[:-9], 422, "end"),
        (HEAD.replace(b'; filename="a.png"', b"") + b"text\r\n--B--", 422, "files"),
        (HEAD.replace(b'"image"', b'"picture"') + png(RED) + b"\r\n--B--", 422, "image"),
        (HEAD.replace(b'name="image"; ', b"") + png(RED) + b"\r\n--B--", 400, "name"),
        (b"no form\r\n--B--", 400, "multipart"),
    ],
)
@pytest.mark.parametrize("path", ["/embed", "/search", "/gallery"])
def test_malformed_forms_are_refused_with_a_reason(
    client: TestClient, network: MeanColour, path: str, body: bytes, status: int, reason: str
) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "multipart/form-data; boundary=B"})
    assert (answer.status_code, reason in answer.json()["error"]) == (status, True), answer.text
    assert network.batches == []


@pytest.mark.parametrize(("error", "status"), [(NoSpaceError, 507), (DataError, 503)])
def test_a_gallery_that_cannot_be_written_is_told_from_a_full_disk(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, error: type[DataError], status: int
) -> None:
    def add(*_: object) -> None:
        raise error("s3://bucket: cannot be written")

    monkeypatch.setattr(Gallery, "add", add)
    answer = client.post("/gallery", content=png(RED))
    assert (answer.status_code, answer.json()) == (status, {"error": "s3://bucket: cannot be written"})


def test_the_details_of_an_internal_error_are_not_sent(client: TestClient, network: MeanColour) -> None:
    network.error = RuntimeError("secret detail")
    caller = TestClient(client.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    answer = caller.post("/embed", content=png(RED))
    assert answer.status_code == 500
    assert answer.json().keys() == {"error"}
    assert "secret" not in answer.text
    with pytest.raises(RuntimeError, match="secret detail"):  # the server gets it, and logs it
        client.post("/embed", content=png(RED))
    network.error = None
    assert caller.post("/embed", content=png(RED)).status_code == 200
    assert 'reid_request_seconds_count{route="/embed",status="500"} 2.0' in client.get("/metrics").text
