"""The index in an object store: a server with the interface of S3, on the loopback."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from deploy.gallery.gallery import Gallery, NameTakenError
from tests.conftest import ROOT
from tests.deploy.gallery.conftest import DIM, check_matches, ids, named, unit
from utils.errors import DataError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    for name, value in {**variables, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


@pytest.fixture
def place(server: ThreadedMotoServer, tmp_path: Path) -> str:
    """A place in a bucket of its own."""
    host, port = server.get_host_and_port()
    bucket = tmp_path.name.replace("_", "-").lower()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/gallery"


def test_several_galleries_read_and_write_one_table_in_a_store(place: str, rng: np.random.Generator) -> None:
    vectors = unit(rng, 8)
    with Gallery(place, DIM, "model") as first, Gallery(place, DIM, "model") as second:
        added = first.add(vectors[:5], named(5), [b"crop"] * 5)
        added += second.add(vectors[5:], named(3, first=5))
        with pytest.raises(NameTakenError):
            first.add(vectors[5:6], named(1, first=5))
        second.remove([added[0]])
        first.optimize()
        for gallery in (first, second):
            assert ids(gallery) == {f"{place}.jpg": added[place] for place in range(1, 8)}
            by_id = dict(zip(added[1:], vectors[1:], strict=True))
            check_matches(gallery.search(vectors[:1], 3)[0], by_id, vectors[0], 3)
            assert gallery.image(added[1]) == b"crop"
    with pytest.raises(DataError, match=r"model model .*, but .* other .* needed"):
        Gallery(place, DIM, "other")


@pytest.mark.usefixtures("server")
def test_a_place_that_does_not_exist_is_reported() -> None:
    with pytest.raises(DataError, match=r"s3://missing/gallery.*cannot be opened: .*NoSuchBucket|404"):
        Gallery("s3://missing/gallery", DIM, "model")
    with pytest.raises(DataError, match="scheme: 'unknown'"):
        Gallery("unknown://bucket/gallery", DIM, "model")


@pytest.mark.slow
def test_a_store_that_goes_away_is_reported(place: str, server: ThreadedMotoServer, rng: np.random.Generator) -> None:
    gallery = Gallery(place, DIM, "model")
    added = gallery.add(unit(rng, 2), named(2))
    server.stop()
    start = time.monotonic()
    for work in (
        lambda: Gallery(place, DIM, "model"),
        lambda: gallery.add(unit(rng, 1), named(1, 2)),
        lambda: gallery.search(unit(rng, 1), 1),
        lambda: gallery.remove(added),
    ):
        with pytest.raises(DataError, match=r"gallery\.lance: cannot be .*error sending request"):
            work()
    assert time.monotonic() - start < 180


def test_a_missing_package_is_named_with_its_command() -> None:
    code = (
        "import sys; sys.modules['lance'] = None\n"
        "from deploy.serve.__main__ import main\n"
        "from utils.cli import exit_code_of\n"
        "sys.exit(exit_code_of(lambda: main(['--model', 'm.onnx', '--gallery', 'g'])))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "lance" in result.stderr
    assert "pip install -r requirements-deploy.txt" in result.stderr
    assert "Traceback" not in result.stderr
