import numpy as np
import pytest
from PIL import Image

from data.synthetic.camera import develop, jpeg_quality, make_cameras


@pytest.fixture(scope="module")
def cameras():
    return make_cameras(seed=3, count=6)


def test_cameras_are_the_same_for_the_same_seed_and_differ_from_each_other(cameras):
    again = make_cameras(seed=3, count=6)
    assert [camera.panorama.tobytes() for camera in again] == [camera.panorama.tobytes() for camera in cameras]
    assert len({camera.panorama.tobytes() for camera in cameras}) == 6
    assert len({camera.gains for camera in cameras}) == 6


def test_each_camera_shows_the_same_grey_differently(cameras):
    grey = Image.new("RGB", (64, 128), (128, 128, 128))
    means = [np.asarray(develop(grey, camera, np.random.default_rng(0))).mean(axis=(0, 1)) for camera in cameras]
    gaps = [np.abs(a - b).max() for i, a in enumerate(means) for b in means[:i]]
    assert min(gaps) > 1
    assert max(gaps) > 15


def test_jpeg_qualities_lie_between_60_and_95(cameras):
    rng = np.random.default_rng(0)
    qualities = [jpeg_quality(camera, rng) for camera in cameras for _ in range(100)]
    assert min(qualities) >= 60
    assert max(qualities) <= 95
    assert len(set(qualities)) > 10
