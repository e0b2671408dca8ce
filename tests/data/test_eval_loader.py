from pathlib import Path

import pytest
import torch

import data.cache.decoded
from data.cache import DecodedImageCache
from data.decoding import Resize
from data.eval_loader import eval_batches
from data.images import decode
from utils.errors import DataError

SMALL, LARGE = Resize(48, 24, "bilinear"), Resize(128, 64, "bilinear")


@pytest.mark.parametrize("resize", [SMALL, SMALL._replace(interpolation="bicubic")])
def test_all_images_come_in_order(paths: list[Path], resize: Resize) -> None:
    batches = list(eval_batches(paths, resize, batch_size=3))
    assert [positions for positions, _ in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    images = torch.cat([images for _, images in batches])
    assert images.dtype == torch.uint8
    for image, path in zip(images, paths, strict=True):
        assert torch.equal(image.permute(1, 2, 0), torch.tensor(decode(path, resize)))


def test_streaming_leaves_out_bad_images_only_if_told_to(paths: list[Path]) -> None:
    paths[2].write_bytes(b"")
    paths[6].write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.png"):
        list(eval_batches(paths, LARGE, batch_size=3))
    for cache in (None, DecodedImageCache(10**9)):
        for _ in range(2):
            batches = list(eval_batches(paths, LARGE, batch_size=3, bad_images="skip", cache=cache))
            # The last batch held nothing but a bad image.
            assert [positions for positions, _ in batches] == [[0, 1], [3, 4, 5]]
            assert [tuple(images.shape) for _, images in batches] == [(2, 3, 128, 64), (3, 3, 128, 64)]
            assert torch.equal(batches[1][1][0].permute(1, 2, 0), torch.tensor(decode(paths[3])))


def test_later_passes_decode_only_what_did_not_fit_the_cache(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []

    def counted(path: Path, resize: Resize):
        decoded.append(path)
        return decode(path, resize)

    monkeypatch.setattr(data.cache.decoded, "decode", counted)
    cache = DecodedImageCache(4 * 48 * 24 * 3 + 1)
    expected = torch.cat([images for _, images in eval_batches(paths, SMALL, batch_size=2)])
    for num_decoded in (7, 3, 3):
        decoded.clear()
        images = torch.cat([images for _, images in eval_batches(paths, SMALL, batch_size=2, cache=cache)])
        assert torch.equal(images, expected)
        assert len(decoded) == num_decoded
