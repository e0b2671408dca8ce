import logging
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
    assert [len(split) for split in dataset] == [2, 1, 0]
    assert [record.getMessage() for record in caplog.records] == [f"left out: {bad}: not an image that can be read"]


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
        "1 identities have fewer than K = 2 images; theirs are repeated in a batch",
        "1 identities have one image only",
        "2 training identities are seen by one camera only",
    ]


def test_the_summary_counts_junk_and_distractors_apart() -> None:
    gallery = [Sample(ONE, pid, camid) for pid, camid in ((-1, 1), (0, 2), (0, 2), (7, 3), (7, 4), (9, 4))]
    table = summary_table(Dataset([Sample(ONE, 0, 1), Sample(ONE, 2, 1)], [], gallery)).splitlines()
    assert [line.split() for line in table] == [
        ["split", "images", "pids", "cameras", "distractors", "junk"],
        ["train", "2", "2", "1", "0", "0"],
        ["query", "0", "0", "0", "0", "0"],
        ["gallery", "6", "2", "4", "2", "1"],
    ]
