import io
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from data.decoding import Resize
from data.images import decode
from deploy.export import export_onnx
from deploy.predictor import Predictor
from tests.deploy.conftest import Model
from utils.errors import DataError


@pytest.fixture(scope="session")
def predictor(exported: Path) -> Predictor:
    return Predictor(exported, batch_size=5, threads=1)


@pytest.fixture(scope="session")
def embeddings(predictor: Predictor, images: list[Path]) -> np.ndarray:
    return predictor(images)


def test_embeddings_are_of_unit_length_and_in_order(
    predictor: Predictor, images: list[Path], embeddings: np.ndarray
) -> None:
    assert embeddings.shape == (12, predictor.embedding_dim) == (12, 24)
    assert embeddings.dtype == np.float32
    assert predictor(iter([])).shape == (0, 24)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(12), abs=1e-6)
    alone = np.concatenate([predictor([image]) for image in images])
    assert np.abs(alone - embeddings).max() < 1e-6
    # Different images, different embeddings: an order that is wrong would show.
    assert np.abs(embeddings[:, None] - embeddings[None]).max(axis=2)[~np.eye(12, dtype=bool)].min() > 1e-4


def test_a_checkpoint_and_its_export_agree(model: Model, images: list[Path], embeddings: np.ndarray) -> None:
    by_torch = Predictor(model.path)
    assert by_torch.card is None
    assert np.abs(by_torch(images) - embeddings).max() < 1e-5


@pytest.mark.parametrize("size", [(32, 64), (90, 150)], ids=["the network's size", "another size"])
def test_every_kind_of_image_is_read_alike(predictor: Predictor, tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "image.png"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    image.save(path)
    for kind in (path, str(path), path.read_bytes(), image, np.array(image)):
        assert np.array_equal(predictor.prepare(kind), decode(path, Resize(64, 32, "bilinear")))


def test_images_are_resized_as_in_training(model: Model, images: list[Path], tmp_path: Path) -> None:
    trained = model.resized_by("bicubic")
    out = tmp_path / "model.onnx"
    export_onnx(trained.path, trained.exporting(measured_images=0), out)
    image = Image.open(images[0]).resize((90, 150))
    content = io.BytesIO()
    image.save(content, "PNG")
    expected = np.asarray(image.resize((32, 64), Image.Resampling.BICUBIC))
    for predictor in (Predictor(trained.path, warm_up=False), Predictor(out, warm_up=False)):
        for kind in (image, np.asarray(image), content.getvalue()):
            assert np.array_equal(predictor.prepare(kind), expected)


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1"])
def test_images_of_pillow_are_read_as_their_files_are(predictor: Predictor, mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 32, 3), np.uint8)).convert(mode)
    content = io.BytesIO()
    image.save(content, "PNG")
    assert np.array_equal(predictor.prepare(image), predictor.prepare(content.getvalue()))


def test_unreadable_images_are_named(predictor: Predictor, images: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.jpg: .*not an image"):
        predictor([*images, bad])
    with pytest.raises(DataError, match=r"image 12: .*not an image"):
        predictor([*images, b"no image"])


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), 7, Image.new("I;16", (4, 4))],
)
def test_what_is_no_image_is_refused(predictor: Predictor, image: object) -> None:
    with pytest.raises(ValueError, match=r"image 0: .*expected"):
        predictor([image])  # pyright: ignore[reportArgumentType]
    if isinstance(image, np.ndarray):
        with pytest.raises(ValueError, match="pixels: expected uint8"):
            predictor.embed(image[None])


def test_threads_share_a_predictor(predictor: Predictor, images: list[Path], embeddings: np.ndarray) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: predictor([images[place]])[0], list(range(12)) * 3))
    assert np.abs(np.stack(found) - np.concatenate([embeddings] * 3)).max() < 1e-6


def test_the_digest_tells_models_apart(model: Model, predictor: Predictor, exported: Path, tmp_path: Path) -> None:
    copied = shutil.copy(exported, tmp_path / "copy.onnx")
    assert Predictor(copied, warm_up=False).digest == predictor.digest
    assert Predictor(model.path, warm_up=False).digest != predictor.digest


def test_a_batch_has_at_least_one_image(exported: Path) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        Predictor(exported, batch_size=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.onnx", None, "no such file"),
        ("x.onnx", b"no model", "not an ONNX model that can be run"),
        ("x.onnx", b"", "not an ONNX model that can be run"),
        ("x.pth", b"no model", "not a checkpoint"),
        ("x.pt", b"", "expected an .onnx"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        Predictor(path)


def test_a_model_of_another_program_is_refused(exported: Path, tmp_path: Path) -> None:
    proto = onnx.load(exported)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "x.onnx")
    with pytest.raises(DataError, match=r"x\.onnx: has no model card .* export_onnx"):
        Predictor(tmp_path / "x.onnx")


def test_a_profile_that_is_unknown_is_refused(exported: Path, tmp_path: Path) -> None:
    proto = onnx.load(exported)
    for entry in proto.metadata_props:
        entry.value = '"later"' if entry.key == "reid.profile" else entry.value
    onnx.save(proto, tmp_path / "x.onnx")
    with pytest.raises(DataError, match=r"x\.onnx: its model card is damaged: reid\.profile"):
        Predictor(tmp_path / "x.onnx")
