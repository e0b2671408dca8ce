from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.cameras import main
from data.dataset import read_root
from utils.errors import DataError


def test_each_folder_has_the_images_of_its_cameras(tmp_path: Path, make_market: Callable[[Path], Path]) -> None:
    whole = read_root(make_market(tmp_path / "market"))
    main([str(tmp_path / "market"), "--train", "1", "7+15", "--test", "2+3", "--out", str(tmp_path / "out")])
    main([str(tmp_path / "market"), "--train", "1", "--test", "2+3", "--out", str(tmp_path / "out")])  # again
    for name, camids in (("1", [1]), ("7+15", [7, 15])):
        dataset = read_root(tmp_path / "out" / name)
        expected = [sample for sample in whole.train if sample.camid in camids]
        assert [(sample.path.name, sample.pid) for sample in dataset.train] == [(s.path.name, s.pid) for s in expected]
        assert dataset.query == dataset.gallery == []
    dataset = read_root(tmp_path / "out" / "2+3")
    assert dataset.train == []
    for found, of_all in ((dataset.query, whole.query), (dataset.gallery, whole.gallery)):
        names = [sample.path.name for sample in of_all if sample.camid in (2, 3)]
        assert [sample.path.name for sample in found] == names
        assert names
    with pytest.raises(DataError, match=r"^a\+77: no images of these cameras for bounding_box_train$"):
        main([str(tmp_path / "market"), "--train", "a+77", "--test", "1", "--out", str(tmp_path / "out")])
