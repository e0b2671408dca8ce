"""Several data sets, joined to train on some of them and to be evaluated on some."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data.dataset import log_summary, read_dataset
from data.lmdb.writing import pack_dataset
from data.options import DataOptions
from data.samples import SOURCE_STRIDE, Dataset, Sample, source_of
from data.sources import join, part
from utils.errors import DataError, ParamsError

FIRST = (
    "bounding_box_train/0000_c1_a.jpg", "bounding_box_train/0002_c1_a.jpg", "bounding_box_train/0002_c2_a.jpg",
    "query/0005_c1_a.jpg", "bounding_box_test/-1_c2_a.jpg", "bounding_box_test/0000_c2_a.jpg",
    "bounding_box_test/0005_c2_a.jpg",
)  # fmt: skip
SECOND = ("bounding_box_train/0002_c1_b.jpg", "query/0005_c1_b.jpg", "bounding_box_test/0005_c3_b.jpg")

Plant = Callable[[str, tuple[str, ...]], str]


@pytest.fixture
def plant_set(tmp_path: Path) -> Plant:
    """Makes a data set of files that nobody opens, and returns its path."""

    def make(name: str, files: tuple[str, ...]) -> str:
        for file in files:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {file}")
        return str(tmp_path / name)

    return make


def joined_of(first: str, second: str, **options: object) -> Dataset:
    return read_dataset(DataOptions.model_validate({"batches_dir": (first, second), **options}))


def test_identities_and_cameras_of_two_data_sets_are_kept_apart(plant_set: Plant) -> None:
    first, second = plant_set("first", FIRST), plant_set("second", SECOND)
    joined = joined_of(first, second)
    assert [(sample.pid, sample.camid) for sample in joined.train] == [
        (0, 1), (2, 1), (2, 2), (SOURCE_STRIDE + 2, SOURCE_STRIDE + 1),
    ]  # fmt: skip
    assert [source_of(sample.camid) for sample in joined.train] == [0, 0, 0, 1]
    # Junk and distractors stay what they are, and no query has a match in the other gallery.
    assert [sample.pid for sample in joined.gallery] == [-1, 0, 5, SOURCE_STRIDE + 5]
    assert [sample.pid for sample in joined.query] == [5, SOURCE_STRIDE + 5]


def test_each_data_set_is_found_again_in_the_joined_one(plant_set: Plant) -> None:
    paths = plant_set("first", FIRST), plant_set("second", SECOND)
    joined = joined_of(*paths)
    for number, path in enumerate(paths):
        assert part(joined, number) == read_dataset(DataOptions(batches_dir=path))


def test_a_list_of_one_data_set_is_that_data_set(plant_set: Plant) -> None:
    first = plant_set("first", FIRST)
    options = DataOptions(batches_dir=(first,))
    assert options == DataOptions(batches_dir=first)
    assert read_dataset(options) == read_dataset(DataOptions(batches_dir=first))


def test_only_the_test_half_of_a_test_set_is_used(plant_set: Plant) -> None:
    first, second = plant_set("first", FIRST), plant_set("second", SECOND)
    options = DataOptions(batches_dir=first, test_dirs=(second,))
    joined = read_dataset(options)
    assert joined.train == read_dataset(DataOptions(batches_dir=first)).train
    alone = read_dataset(DataOptions(batches_dir=second))
    assert part(joined, 1) == alone._replace(train=[])
    assert not part(joined, 0).query
    assert options.test_sets == (second,)


def test_a_data_set_that_is_trained_on_and_tested_is_read_once(plant_set: Plant) -> None:
    first, second = plant_set("first", FIRST), plant_set("second", SECOND)
    joined = joined_of(first, second, test_dirs=(second,))
    assert [source_of(sample.camid) for sample in joined.query] == [1]
    assert len(joined.train) == 4


def test_data_sets_are_called_by_the_last_part_of_their_paths_unless_two_end_alike() -> None:
    options = DataOptions(batches_dir=("/data/market", "/data/duke.lmdb", "synthetic"), test_dirs=("/data/msmt/",))
    assert list(options.data_names.values()) == ["market", "duke", "synthetic", "msmt"]
    alike = DataOptions(batches_dir=("/a/images", "/b/images", "/c"))
    assert list(alike.data_names.values()) == ["/a/images", "/b/images", "c"]


def test_the_summary_shows_each_data_set_and_all_together(plant_set: Plant, caplog: pytest.LogCaptureFixture) -> None:
    first, second = plant_set("first", FIRST), plant_set("second", SECOND)
    options = DataOptions(batches_dir=(first, second))
    with caplog.at_level("INFO"):
        log_summary(read_dataset(options), options)
    tables = {record.getMessage().splitlines()[0]: record.getMessage().splitlines()[2] for record in caplog.records}
    assert {name: line.split()[1:4] for name, line in tables.items()} == {
        f"data set {first}": ["3", "2", "2"],
        f"data set {second}": ["1", "1", "1"],
        "together": ["4", "3", "3"],
    }


@pytest.mark.parametrize("again", ["{}/.", "{}/../first", "link"])
def test_the_same_folder_twice_is_refused(plant_set: Plant, tmp_path: Path, again: str) -> None:
    first = plant_set("first", FIRST)
    (tmp_path / "link").symlink_to(first)
    other = again.format(first) if "{}" in again else str(tmp_path / again)
    with pytest.raises(ParamsError, match=r"batches_dir: .* same folder"):
        joined_of(first, other)
    with pytest.raises(ParamsError, match=r"test_dirs: .* same folder"):
        read_dataset(DataOptions(batches_dir=first, test_dirs=(other,)))


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ("bounding_box_train/0007_c1_b.jpg", "second, identity 7"),
        ("query/0007_c1_b.jpg", "second, identity 7"),
    ],
)
def test_a_training_image_that_is_also_in_another_data_set_is_named(
    plant_set: Plant, tmp_path: Path, link: str, told: str
) -> None:
    first, second = plant_set("first", FIRST), plant_set("second", SECOND)
    (tmp_path / "second" / link).symlink_to(tmp_path / "first" / FIRST[1])
    with pytest.raises(DataError, match=rf"0002_c1_a\.jpg of .*first, identity 2.*same file.*{told}"):
        joined_of(first, second)


def test_a_file_under_two_identities_of_a_data_set_is_named(plant_set: Plant, tmp_path: Path) -> None:
    first, second = plant_set("first", FIRST), plant_set("second", SECOND)
    os.link(tmp_path / "second" / SECOND[0], tmp_path / "second" / "bounding_box_train/0009_c1.jpg")
    with pytest.raises(DataError, match=r"second, identity 2 .*same file.*second, identity 9"):
        joined_of(first, second)


def test_images_that_test_sets_share_are_no_mistake(plant_set: Plant, tmp_path: Path) -> None:
    first, second = plant_set("first", FIRST), plant_set("second", SECOND)
    os.link(tmp_path / "first" / FIRST[3], tmp_path / "second" / "query/0009_c1.jpg")
    assert len(joined_of(first, second).query) == 3


def test_a_data_set_without_training_images_is_named(plant_set: Plant) -> None:
    first, second = plant_set("first", FIRST), plant_set("second", SECOND[1:])
    with pytest.raises(DataError, match=r"batches_dir: .*second: no training images.*test_dirs"):
        joined_of(first, second)


def test_numbers_that_would_run_into_those_of_the_next_data_set_are_refused() -> None:
    options = DataOptions(batches_dir=("a", "b"))
    good = Dataset([Sample(Path("a.jpg"), 1, 1)], [], [], [])
    bad = Dataset([Sample(Path("b.jpg"), SOURCE_STRIDE, 1)], [], [], [])
    with pytest.raises(DataError, match=r"b\.jpg: identity .* at most 12 digits"):
        join([good, bad], options)


def test_no_data_set_at_all_is_refused() -> None:
    given: Mapping[str, object] = {"batches_dir": ()}
    with pytest.raises(ValueError, match="names no data set"):
        DataOptions.model_validate(given)


def test_data_sets_are_packed_one_by_one(tmp_path: Path) -> None:
    for options in (DataOptions(batches_dir=("a", "b")), DataOptions(batches_dir="a", test_dirs=("b",))):
        with pytest.raises(ParamsError, match="batches_dir: names several data sets; pack each"):
            pack_dataset(tmp_path / "both.lmdb", options)
