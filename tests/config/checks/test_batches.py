"""Batches and augmentation: settings that do not go together, and neighbours of theirs that do."""

import pytest

PK = {"class_balanced": True, "P": 4, "K": 2}


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ({"batch_sampling_params": PK, "batch_size": 9},
         ["batch_size: is 9, but batch_sampling_params.P x batch_sampling_params.K is 4 x 2 = 8; leave it out"]),
        ({"batch_sampling_params": "4*2", "batch_size": 9},
         ["batch_size: is 9, but batch_sampling_params.P x batch_sampling_params.K is 4 x 2 = 8; leave it out"]),
        ({"batch_sampling_params": PK | {"P": 9000}}, ["batch_sampling_params.P: P x batch_sampling_params.K is "
         "9000 x 2 = 18000; a batch has 2 to 16384 images"]),
        ({"batch_sampling_params": PK | {"P": 1, "K": 1}, "batch_size": 9}, ["batch_sampling_params.P: P x "
         "batch_sampling_params.K is 1 x 1 = 1; a batch has 2 to 16384 images"]),
        ({"batch_sampling_params": PK | {"P": 1, "K": 1}}, ["batch_sampling_params.P: P x batch_sampling_params.K is "
         "1 x 1 = 1; a batch has 2 to 16384 images"]),
        ({"batch_sampling_params": "1*1"}, ["batch_sampling_params: P x batch_sampling_params.K is 1 x 1 = 1; a batch "
         "has 2 to 16384 images"]),
        ({"data_augmentation": {"resize_h": 235, "resize_w": 100, "pad": 10}},
         ["data_augmentation.resize_h: 235 and data_augmentation.pad 10 on both sides are smaller than the crop, "
          "img_h 256",
          "data_augmentation.resize_w: 100 and data_augmentation.pad 10 on both sides are smaller than the crop, "
          "img_w 128"]),
        ({"data_augmentation": {"random_erasing": {"min_area": 0.5}}}, ["data_augmentation.random_erasing.min_area: "
         "0.5 is above data_augmentation.random_erasing.max_area 0.4"]),
    ],
)  # fmt: skip
def test_what_does_not_go_together(desk, content, lines):
    assert desk.conflicts(content) == lines


@pytest.mark.parametrize(
    "content",
    [
        {"batch_sampling_params": PK, "batch_size": 8},
        {"batch_sampling_params": "4*2", "batch_size": 8},
        {"batch_sampling_params": {"class_balanced": False, "P": 1, "K": 1}, "batch_size": 9},
        {"data_augmentation": {"resize_h": 236, "resize_w": 108, "pad": 10}},
        {"data_augmentation": {"resize_h": 288}},
    ],
)
def test_what_goes_together(desk, content):
    assert desk.load(content).params


def test_with_random_sampling_the_batch_size_wins(desk):
    sampling = {"class_balanced": False, "P": 64, "K": 1}
    assert desk.load({"batch_sampling_params": sampling}).params.batch_images == 64
    assert desk.load({"batch_sampling_params": sampling, "batch_size": 9}).params.batch_images == 9
