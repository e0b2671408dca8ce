import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data.features import read_features
from data.images import decode
from deploy.embed import main
from deploy.predictor import Predictor
from tests.deploy.conftest import Model
from utils.errors import DataError


@pytest.fixture
def flat(model: Model, tmp_path: Path) -> Path:
    """A folder with images directly in it, some named as Market-1501 does."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for place, sample in enumerate(model.dataset.gallery[:6]):
        name = f"crop{place}{sample.path.suffix}" if place % 2 else sample.path.name
        shutil.copy(sample.path, folder / name)
    return folder


def embedded(folder: Path, model: Path, *arguments: str) -> Path:
    out = folder.parent / "features.npz"
    main([str(folder), "--model", str(model), "--out", str(out), "--batch-size", "4", *arguments])
    return out


def test_a_data_set_becomes_query_and_gallery(model: Model, exported: Path, tmp_path: Path) -> None:
    market = Path(model.params.sources[0])
    out = tmp_path / "features.npz"
    main([str(market), "--model", str(exported), "--out", str(out)])
    found = read_features(out)
    for part, samples in zip(found, (model.dataset.query, model.dataset.gallery), strict=True):
        assert part.pids.tolist() == [sample.pid for sample in samples]
        assert part.camids.tolist() == [sample.camid for sample in samples]
        assert [sample.path for sample in part.samples] == [sample.path.absolute() for sample in samples]
        expected = Predictor(model.path)([np.array(decode(sample.path)) for sample in samples])
        assert torch.allclose(part.features, torch.from_numpy(expected), atol=1e-5)
        assert part.branch_dims == (8, 8, 8)


def test_a_plain_folder_is_gallery_as_a_whole(model: Model, flat: Path, exported: Path) -> None:
    query, gallery = read_features(embedded(flat, exported))
    assert query.features.shape == (0, 24)
    paths = sorted(flat.iterdir())
    assert [sample.path for sample in gallery.samples] == paths
    labels = {sample.path.name: (sample.pid, sample.camid) for sample in model.dataset.gallery}
    expected = [labels.get(path.name, (-1, 0)) for path in paths]
    assert sum(path.name in labels for path in paths) == 3
    assert list(zip(gallery.pids.tolist(), gallery.camids.tolist(), strict=True)) == expected


def test_folders_of_persons_are_gallery_with_their_pids(model: Model, exported: Path, tmp_path: Path) -> None:
    for place, sample in enumerate(model.dataset.gallery[:4]):
        (tmp_path / "tree" / f"person{place // 2}").mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.path, tmp_path / "tree" / f"person{place // 2}")
    query, gallery = read_features(embedded(tmp_path / "tree", exported))
    assert len(query.pids) == 0
    assert gallery.pids.tolist() == [1, 1, 2, 2]


def test_unreadable_images_stop_it_or_are_left_out(
    flat: Path, exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (flat / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.jpg: .*not an image"):
        embedded(flat, exported)
    assert not (flat.parent / "features.npz").exists()
    _, gallery = read_features(embedded(flat, exported, "--skip-unreadable"))
    assert len(gallery.pids) == 6
    assert "left out" in caplog.text


def test_an_empty_folder_is_refused(tmp_path: Path, exported: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        embedded(tmp_path / "empty", exported)
