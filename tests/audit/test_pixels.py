from pathlib import Path

import numpy as np
import torch
from PIL import Image

from audit.copies import find_copies
from audit.crops import compare_cameras, find_poor_crops
from audit.labels import Near
from audit.pixels import Pixels, read_pixels


def saved(folder: Path, name: str, pixels: np.ndarray, quality: int = 90) -> Path:
    path = folder / name
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=quality)
    return path


def scene(seed: int, height: int = 128, width: int = 64) -> np.ndarray:
    """Smooth colours, as of a photo."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def everyone_near(number: int) -> Near:
    others = torch.stack([torch.tensor([k for k in range(number) if k != row]) for row in range(number)])
    return Near(others, torch.full(others.shape, 0.8))


def test_copies_with_the_same_and_with_nearly_the_same_pixels_are_found(tmp_path: Path) -> None:
    paths = [
        saved(tmp_path, "a.png", scene(0)),
        saved(tmp_path, "b.png", scene(1)),
        saved(tmp_path, "same pixels, another file.bmp", scene(0)),
        saved(tmp_path, "smaller.jpg", np.asarray(Image.fromarray(scene(1)).resize((60, 124))), quality=70),
        saved(tmp_path, "c.png", scene(2)),
    ]
    pixels = read_pixels(paths)
    exact, near = sorted(find_copies(pixels, everyone_near(5), 4.0), key=lambda copies: copies.difference)
    assert (exact.rows, exact.difference) == ([0, 2], 0)
    assert near.rows == [1, 3]
    assert 0 < near.difference <= 4
    assert [copies.rows for copies in find_copies(pixels, everyone_near(5), 0.0)] == [[0, 2]]


def test_other_pixels_with_the_same_thumbnail_are_no_exact_copy() -> None:
    thumbnails = np.zeros((3, 32, 16, 3), np.uint8)
    pixels = Pixels(np.array([[0], [1], [1]]), np.zeros((3, 2)), np.zeros((3, 3)), np.zeros(3), thumbnails)
    (group,) = find_copies(pixels, everyone_near(3), 4.0)
    assert group.rows == [0, 1, 2]
    assert 0 < group.difference < 1


def test_a_copy_of_a_copy_is_of_the_same_group() -> None:
    pixels = Pixels(
        np.array([[0], [1], [0], [1], [2]]),
        np.zeros((5, 2)),
        np.zeros((5, 3)),
        np.zeros(5),
        np.zeros((5, 32, 16, 3), np.uint8),
    )
    pixels.thumbnails[3:] = 2
    near = Near(torch.tensor([[4], [4], [4], [4], [3]]), torch.ones(5, 1))
    assert [copies.rows for copies in find_copies(pixels, near, 1.0)] == [[1, 3, 4], [0, 2]]


def test_blank_small_and_far_crops_are_found_once(tmp_path: Path) -> None:
    paths = [saved(tmp_path, f"{seed}.png", scene(seed)) for seed in range(20)]
    paths.append(saved(tmp_path, "blank.png", np.full((128, 64, 3), 90)))
    paths.append(saved(tmp_path, "small.png", scene(3, 20, 12)))
    near = everyone_near(len(paths))
    near.similarities.add_(0.01 * torch.randn(len(paths), 1, generator=torch.Generator().manual_seed(0)))
    near.similarities[5] = 0.1
    crops = find_poor_crops(read_pixels(paths), near, len(paths))
    assert [(crop.row, crop.kind) for crop in crops] == [(5, "far"), (20, "blank"), (21, "small")]
    assert all(0.5 <= crop.score <= 1 for crop in crops)
    assert find_poor_crops(read_pixels(paths), near, 5) == []


def test_odd_cameras_are_named() -> None:
    colours = np.full((6, 3), 100.0, np.float32) + np.array([10, 0, -10], np.float32)
    colours[3] += np.array([30, 0, -30])
    colours[4] = 100
    colours[5] += 80
    pixels = Pixels(np.empty((0, 0)), np.empty(0), colours, np.empty(0), np.empty(0))
    cameras = compare_cameras(pixels, torch.arange(6))
    assert [camera.remark for camera in cameras[:3]] == ["", "", ""]
    assert cameras[3].remark in ("red cast", "yellow cast")
    assert [camera.remark for camera in cameras[4:]] == ["no colour", "very bright"]
    assert compare_cameras(pixels, torch.zeros(6, dtype=torch.int64))[0].remark == ""


def test_each_of_two_cameras_is_compared_with_the_other() -> None:
    colours = np.array([[110, 100, 90], [120, 110, 70]], np.float32)
    cameras = compare_cameras(Pixels(np.empty((0, 0)), np.empty(0), colours, np.empty(0), np.empty(0)), torch.arange(2))
    assert [camera.remark for camera in cameras] == ["blue cast", "yellow cast"]
