import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data.dataset import check_training_set, read_dataset, summary_table, without_bad_images
from data.options import BatchSampling, DataOptions
from data.samples import Dataset, Sample
from utils.errors import DataError, ParamsError

ONE = Path("image.jpg")


@pytest.fixture
def folder(tmp_path: Path, draw_image: Callable[..., Path]) -> Path:
    for name in ("bounding_box_train/0002_c1.jpg", "bounding_box_train/0003_c1.jpg", "query/0005_c1.jpg"):
        draw_image(tmp_path / name)
    return tmp_path


def test_all_bad_images_of_all_splits_are_named_in_one_error(folder: Path) -> None:
    (folder / "query" / "0005_c2.jpg").write_bytes(b"")
    (folder / "bounding_box_train" / "0003_c2.jpg").write_text("text")
    options = DataOptions(batches_dir=str(folder))
    with pytest.raises(DataError, match=r"2 unreadable images(.|\n)*0003_c2\.jpg(.|\n)*0005_c2\.jpg"):
        without_bad_images(read_dataset(options), options)


def test_skipping_logs_each_bad_image_and_leaves_it_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = folder / "bounding_box_train" / "0003_c2.jpg"
    bad.write_text("text")
    options = DataOptions(batches_dir=str(folder), bad_images="skip")
    dataset = without_bad_images(read_dataset(options), options)
    assert [len(split) for split in dataset] == [2, 1, 0, 0]
    (record,) = caplog.records
    assert f"left out: {bad}: " in record.getMessage()
    assert "not an image that can be read" in record.getMessage()


def test_bad_validation_images_are_found_too(tmp_path: Path, draw_image: Callable[..., Path]) -> None:
    draw_image(tmp_path / "train" / "ann" / "1.jpg")
    (draw_image(tmp_path / "val" / "ann" / "1.jpg")).write_bytes(b"")
    options = DataOptions(batches_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"1 unreadable images(.|\n)*val/ann/1\.jpg"):
        without_bad_images(read_dataset(options), options)


def test_a_set_without_training_images_can_be_read_but_not_trained_on(folder: Path) -> None:
    shutil.rmtree(folder / "bounding_box_train")
    options = DataOptions(batches_dir=str(folder), data_layout="market")
    dataset = read_dataset(options)
    assert [len(split) for split in dataset] == [0, 1, 0, 0]
    with pytest.raises(DataError, match=f"^{folder}: no training images found; expected bounding_box_train"):
        check_training_set(dataset.train, options)
    with pytest.raises(DataError, match="no training images found; expected one of these layouts:\n  market: "):
        check_training_set(dataset.train, options.model_copy(update={"data_layout": "auto"}))


def test_the_test_list_is_passed_on(tmp_path: Path, draw_image: Callable[..., Path]) -> None:
    for place, name in enumerate(("test_list_800.txt", "test_list_1600.txt"), start=1):
        draw_image(tmp_path / "image" / f"{place}.jpg")
        (tmp_path / "train_test_split").mkdir(exist_ok=True)
        (tmp_path / "train_test_split" / name).write_text(f"{place} {place}\n")
    options = DataOptions(batches_dir=str(tmp_path), test_list="test_list_800.txt")
    assert [sample.path.stem for sample in read_dataset(options).gallery] == ["1"]


def test_training_sets_that_cannot_be_sampled_are_refused() -> None:
    train = [Sample(ONE, pid, 1) for pid in (1, 1, 2, 3)]
    with pytest.raises(DataError, match="1 identity"):
        check_training_set(train[:2], DataOptions(batch_size=2))
    with pytest.raises(ParamsError, match=r"batch_sampling_params\.P: 4 identities a batch, .* the training set has 3"):
        check_training_set(train, DataOptions(batch_sampling_params=BatchSampling(class_balanced=True, P=4, K=2)))
    with pytest.raises(ParamsError, match="batch_size: 5 is more than the 4"):
        check_training_set(train, DataOptions(batch_size=5))


def test_odd_but_legal_training_sets_are_remarked_on(caplog: pytest.LogCaptureFixture) -> None:
    train = [Sample(ONE, pid, camid) for pid, camid in ((1, 1), (1, 2), (2, 1), (3, 1), (3, 1))]
    options = DataOptions(batch_sampling_params=BatchSampling(class_balanced=True, P=2, K=2))
    with caplog.at_level(logging.INFO):
        check_training_set(train, options)
    assert [record.getMessage() for record in caplog.records] == [
        "1 identities have fewer than K = 2 images; these are repeated in a batch",
        "1 identities have one image only",
        "2 training identities are seen by one camera only",
    ]


def test_the_summary_counts_junk_and_distractors_apart_and_leaves_out_empty_splits() -> None:
    gallery = [Sample(ONE, pid, camid) for pid, camid in ((-1, 1), (0, 2), (0, 2), (7, 3), (7, 4), (9, 4))]
    train, val = [Sample(ONE, 0, 1), Sample(ONE, 2, 1)], [Sample(ONE, 0, 1)]
    table = summary_table(Dataset(train, [], gallery, val)).splitlines()
    assert [line.split() for line in table] == [
        ["split", "images", "pids", "cameras", "distractors", "junk"],
        ["train", "2", "2", "1", "0", "0"],
        ["gallery", "6", "2", "4", "2", "1"],
        ["val", "1", "1", "1", "0", "0"],
    ]
