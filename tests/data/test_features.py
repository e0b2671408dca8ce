"""Feature files: what is written is read again, and every way of spoiling one is told."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from data.features import Features, TestFeatures, read_features, write_features
from data.samples import Sample
from utils.errors import DataError


def features(number: int, dim: int = 4, *, named: bool = False, branch_dims: tuple[int, ...] = ()) -> Features:
    rng = torch.Generator().manual_seed(number)
    pids, camids = torch.randint(-1, 9, (number,), generator=rng), torch.randint(1, 4, (number,), generator=rng)
    names = [Path(f"/images/Jos\u00e9 {row}.png") for row in range(number)] if named else []
    samples = [Sample(*row) for row in zip(names, pids.tolist(), camids.tolist(), strict=False)]
    return Features(torch.randn(number, dim, generator=rng), pids, camids, samples, branch_dims)


def arrays(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """The content of a valid file, with some arrays replaced or, with None, left out."""
    content: dict[str, np.ndarray | None] = {}
    for split, part in (("query", features(3)), ("gallery", features(5))):
        content[f"{split}_features"] = part.features.numpy()
        content[f"{split}_pids"] = part.pids.numpy()
        content[f"{split}_camids"] = part.camids.numpy()
    return {name: array for name, array in {**content, **changes}.items() if array is not None}


@pytest.fixture
def spoilt(tmp_path: Path):
    """Writes a file and returns what its reader says against it, line by line, without the file's name."""

    def read(content: dict[str, np.ndarray]) -> list[str]:
        path = tmp_path / "spoilt.npz"
        np.savez(path, allow_pickle=True, **content)
        with pytest.raises(DataError) as caught:
            read_features(path)
        return [re.sub(f"^{re.escape(str(path))}: ", "", line) for line in str(caught.value).splitlines()]

    return read


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("branch_dims", [(), (1, 3)])
def test_what_is_written_is_read_again(tmp_path: Path, named: bool, branch_dims: tuple[int, ...]) -> None:
    written = TestFeatures(
        features(3, named=named, branch_dims=branch_dims), features(5, named=named, branch_dims=branch_dims)
    )
    write_features(tmp_path / "features.npz", written)
    for before, after in zip(written, read_features(tmp_path / "features.npz"), strict=True):
        assert after.features.equal(before.features)
        assert after.pids.equal(before.pids)
        assert after.camids.equal(before.camids)
        assert after.samples == before.samples
        assert after.branch_dims == before.branch_dims


def test_images_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = features(3)._replace(samples=[Sample(Path(f"{row}.png"), 1, 1) for row in range(3)])
    monkeypatch.chdir(tmp_path)
    write_features(Path("features.npz"), TestFeatures(part, part))
    monkeypatch.chdir("/")
    assert read_features(tmp_path / "features.npz").query.samples[2].path == tmp_path / "2.png"


def test_the_file_has_the_documented_arrays(tmp_path: Path) -> None:
    write_features(tmp_path / "features.npz", TestFeatures(features(3), features(5)))
    with np.load(tmp_path / "features.npz", allow_pickle=False) as content:
        kinds = {name: (content[name].dtype.name, content[name].shape) for name in content.files}
    assert kinds == {
        "query_features": ("float32", (3, 4)),
        "query_pids": ("int64", (3,)),
        "query_camids": ("int64", (3,)),
        "gallery_features": ("float32", (5, 4)),
        "gallery_pids": ("int64", (5,)),
        "gallery_camids": ("int64", (5,)),
    }


def test_other_number_types_become_ours(tmp_path: Path) -> None:
    content = arrays(
        query_features=np.ones((3, 4), np.float16),
        gallery_features=np.asfortranarray(np.ones((5, 4), np.float64)),
        query_pids=np.array([1, 2, 3], np.int16),
        gallery_camids=np.ones(5, np.uint8),
    )
    np.savez_compressed(tmp_path / "features.npz", allow_pickle=False, **content)
    query, gallery = read_features(tmp_path / "features.npz")
    assert query.features.dtype == gallery.features.dtype == torch.float32
    assert query.pids.dtype == gallery.camids.dtype == torch.int64
    assert gallery.features.is_contiguous()


def test_rows_are_taken_with_all_that_belongs_to_them() -> None:
    part = features(5, named=True, branch_dims=(4,))
    taken = part.at(torch.tensor([3, 1]))
    assert taken.features.equal(part.features[[3, 1]])
    assert taken.pids.tolist() == [part.pids[3], part.pids[1]]
    assert taken.samples == [part.samples[3], part.samples[1]]
    assert taken.branch_dims == (4,)
    assert features(5).at(torch.tensor([0])).samples == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gallery_camids": None}, "lacks gallery_camids; a feature file has query_features, query_pids, "),
        ({"query_features": None, "query_pids": None}, "lacks query_features, query_pids;"),
        (
            {"query_features": np.ones(3, np.float32)},
            "query_features: expected numbers of shape (N, D), got float32 (3",
        ),
        ({"query_features": np.ones((3, 0), np.float32)}, "query_features: expected numbers of shape (N, D)"),
        ({"query_features": np.array([["a"] * 4] * 3)}, "query_features: expected numbers of shape (N, D), got <U1"),
        ({"gallery_features": np.full((5, 4), np.nan)}, "gallery_features: 5 of 5 rows hold NaN or infinity"),
        ({"query_features": np.eye(3, 4) * 1e300}, "query_features: 3 of 3 rows hold NaN or infinity, the first: 0"),
        ({"query_pids": np.ones(4, np.int64)}, "query_pids: expected whole numbers of shape (3,), got int64 (4,)"),
        ({"query_pids": np.full(3, 2**63, np.uint64)}, "query_pids: 9223372036854775808 is too large"),
        ({"query_camids": np.ones(3)}, "query_camids: expected whole numbers of shape (3,), got float64 (3,)"),
        ({"gallery_features": np.ones((5, 9))}, "query_features (3, 4) and gallery_features (5, 9): embeddings of"),
        ({"query_paths": np.array(["a"])}, "query_paths: expected texts, as many as features, got <U1 (1,)"),
        ({"branch_dims": np.array([2, 3])}, "branch_dims: [2, 3] do not add up to the size of the embeddings, 4"),
        ({"branch_dims": np.array([4, 0])}, "branch_dims: expected the sizes of the branches"),
        ({"query_pids": np.array([{}, 1, 2], dtype=object)}, "not a feature file that can be read safely"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(spoilt, changes: dict[str, np.ndarray | None], message: str) -> None:
    (line,) = spoilt(arrays(**changes))
    assert line.startswith(message)


def test_all_mistakes_are_told_at_once(spoilt) -> None:
    lines = spoilt(arrays(query_pids=np.ones(2, np.int64), gallery_camids=None))
    assert [line.split(":")[0].split(";")[0] for line in lines] == ["query_pids", "lacks gallery_camids"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    with pytest.raises(DataError, match="no such file"):
        read_features(path)
    np.save(tmp_path / "array.npy", np.ones(3))
    for content in (b"", b"no archive", (tmp_path / "array.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"other\.npz: (not a feature file|one array only)"):
            read_features(path)
    np.savez(path, allow_pickle=False, **arrays())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"other\.npz: damaged"):
        read_features(path)
