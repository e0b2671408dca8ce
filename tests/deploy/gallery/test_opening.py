"""What a gallery finds in its folder when files are missing, or older than others."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from deploy.gallery.gallery import Gallery
from tests.deploy.gallery.conftest import DIM, named, unit
from utils.errors import DataError


def test_embeddings_without_records_are_not_overwritten(tmp_path: Path, rng: np.random.Generator) -> None:
    with Gallery(tmp_path, DIM, "model") as gallery:
        gallery.add(unit(rng, 5), named(5))
    content = (tmp_path / "vectors-1.f32").read_bytes()
    (tmp_path / "items.lmdb").rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"items\.lmdb: is missing, while vectors-1\.f32 is there"):
        Gallery(tmp_path, DIM, "model")
    assert (tmp_path / "vectors-1.f32").read_bytes() == content
    (tmp_path / "away").rename(tmp_path / "items.lmdb")
    with Gallery(tmp_path, DIM, "model") as gallery:
        assert len(gallery) == 5


def test_an_index_of_more_rows_than_an_older_copy_of_the_records_has_is_built_anew(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    vectors = unit(rng, 60)
    with Gallery(tmp_path, DIM, "model") as gallery:
        gallery.add(vectors[:40], named(40))
    shutil.copy(tmp_path / "items.lmdb", tmp_path / "copy")
    with Gallery(tmp_path, DIM, "model", index="hnsw") as gallery:
        gallery.add(vectors[40:], named(20, first=40))
        gallery.search(vectors[:1], 1)
    (tmp_path / "copy").replace(tmp_path / "items.lmdb")
    caplog.clear()
    with Gallery(tmp_path, DIM, "model", index="hnsw") as gallery:
        assert [match.id for match in gallery.search(vectors[30:31], 1)[0]] == [30]
    assert "built over 40 rows" in caplog.text
