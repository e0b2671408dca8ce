import itertools
from pathlib import Path

import numpy as np
import pytest

import deploy.export
from data.decoding import Resize
from data.images import decode
from data.samples import Dataset, Sample
from deploy.checks import measure, subset
from deploy.networks import Embeddings, Network
from deploy.profiles.ours import Ours
from evaluate.core.retrieval.retrieve import RetrievalOptions
from tests.deploy.conftest import Model
from utils.errors import DataError


class Colours(Network):
    """Embeds an image by the mean colour of its upper and lower half."""

    profile, resize = Ours(), Resize(64, 32, "bilinear")
    branch_dims = ()

    def embed(self, pixels: np.ndarray) -> Embeddings:
        rows = np.concatenate([half.mean(axis=(1, 2)) for half in np.split((pixels / 255 - 0.5) / 0.5, 2, axis=1)], 1)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return Embeddings((rows / lengths).astype(np.float32), lengths)


def slow_embedding(path: Path) -> np.ndarray:
    """The same from the definition."""
    pixels = (decode(path, Resize(64, 32, "bilinear")) / 255 - 0.5) / 0.5
    row = np.concatenate([pixels[:32].mean(axis=(0, 1)), pixels[32:].mean(axis=(0, 1))])
    return row / np.sqrt((row**2).sum())


def test_thresholds_are_those_of_all_pairs(model: Model) -> None:
    measured = measure(model.params, model.dataset, Colours())
    genuine, impostor = [], []
    for query, other in itertools.product(model.dataset.query, model.dataset.gallery):
        if query.pid <= 0 or other.pid == -1 or (query.pid == other.pid and query.camid == other.camid):
            continue
        distance = 1 - float(slow_embedding(query.path) @ slow_embedding(other.path))
        (genuine if query.pid == other.pid else impostor).append(distance)
    assert measured.thresholds
    for threshold in measured.thresholds:
        allowed = [limit for limit in genuine if np.mean(np.array(impostor) <= limit) <= threshold.far]
        assert threshold.distance == pytest.approx(max(allowed), abs=1e-6)
        assert threshold.tar == pytest.approx(np.mean(np.array(genuine) <= max(allowed)))
    assert measured.num_images == len(model.dataset.query) + len(model.dataset.gallery)


@pytest.mark.parametrize(("camid", "skips"), [(1, True), (9, False)])
def test_the_camera_rule_of_the_run_is_used_and_said(model: Model, camid: int, skips: bool) -> None:
    """Every person from one camera: without the rule each image is a match, with it there is none."""
    moved = [[sample._replace(camid=camid) for sample in model.dataset.query]]
    moved += [[sample._replace(camid=1) for sample in model.dataset.gallery]]
    dataset = model.dataset._replace(query=moved[0], gallery=moved[1])
    camera_less = model.params.model_copy(update={"evaluation_params": RetrievalOptions(protocol="camera_less")})
    assert not measure(camera_less, dataset, Colours()).skips_own_camera
    if skips:
        with pytest.raises(DataError, match="from another camera"):
            measure(model.params, dataset, Colours())
    else:
        assert not measure(model.params, dataset, Colours()).skips_own_camera
    assert measure(model.params, model.dataset, Colours()).skips_own_camera


def test_an_empty_test_set_is_refused(model: Model) -> None:
    with pytest.raises(DataError, match="no query or no gallery images"):
        measure(model.params, model.dataset._replace(query=[]), Colours())


def test_unreadable_images_are_left_out_if_the_params_say_so(model: Model, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    gallery = [*model.dataset.gallery, model.dataset.gallery[0]._replace(path=tmp_path / "bad.jpg")]
    with pytest.raises(DataError, match=r"bad\.jpg"):
        measure(model.params, model.dataset._replace(gallery=gallery), Colours())
    params = model.params.model_copy(update={"bad_images": "skip"})
    measured = measure(params, model.dataset._replace(gallery=gallery), Colours())
    assert measured == measure(model.params, model.dataset, Colours())


def sample(pid: int, number: int, camid: int = 1) -> Sample:
    return Sample(Path(f"{pid}_{number}"), pid, camid)


SET = Dataset(
    [],
    [sample(pid, 0) for pid in range(1, 11)],
    [sample(pid, number) for pid in range(-1, 11) for number in range(1, 4)],
    [],
)


def test_a_small_test_set_stays_whole() -> None:
    assert subset(SET, 1000) == SET


def test_a_large_one_keeps_whole_identities() -> None:
    thin = subset(SET, 16)  # of 46: every third
    assert {one.pid for one in thin.query} == {1, 4, 7, 10}
    assert [one for one in thin.gallery if one.pid > 0] == [one for one in SET.gallery if one.pid in (1, 4, 7, 10)]
    # Of six images of nobody every third.
    assert len([one for one in thin.gallery if one.pid <= 0]) == 2


def test_a_missing_test_set_is_reported(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deploy.export, "read_measured", lambda params: model.dataset._replace(query=[], gallery=[]))
    card = deploy.export.export_onnx(model.path, model.params, tmp_path / "model.onnx")
    assert card.thresholds == ()
    assert card.num_measured == 0
    assert "not measured, and without thresholds" in caplog.text
