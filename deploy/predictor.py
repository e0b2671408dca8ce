"""Embeddings of images of any kind, by an exported model or a checkpoint."""

import argparse
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.decoding import decode_bytes
from data.images import decode
from data.read_ahead import read_ahead
from deploy.networks import open_network
from utils.cli import whole_number
from utils.errors import DataError
from utils.hub import digest_of_file, model_file

AnyImage = Path | str | bytes | Image.Image | np.ndarray
"""A file's path, its content, an image of Pillow, or (H, W, 3) uint8 RGB pixels."""

MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK", "1")
"""Modes of Pillow's images that `decode_bytes` reads in the same way from a file, except inverted CMYK."""


class Predictor:
    """Turns images into embeddings of unit length; the cosine of two is their dot product.

    An exported model is run by onnxruntime, a checkpoint by torch; both give the embeddings of the evaluation. Threads
    decode the next images, resized as in training, while the network computes. Several threads may share a predictor.

    Args:
        path: a model.onnx or model.xml of export_onnx, a model_best.pth, a run's or hub folder, or "hf://owner/name" on
            the Hugging Face hub.
        batch_size: images in a batch of the network.
        threads: CPU threads of the network; 0 = all.
        warm_up: embed blank images first, so that the first real ones are not slower than others.
        spin: threads of onnxruntime spin while they wait; False leaves the CPUs to other work, such as requests.

    Attributes:
        card: the model card; None for a model_best.pth.
        digest: SHA-256 of the file, hexadecimal.
        embedding_dim: D.
        branch_dims: sizes of the parts of an embedding that have losses of their own; empty if unknown.
        resize: how images are resized for the network.
        img_h, img_w: size of the network's images, pixels.

    Raises:
        DataError: the file cannot be used.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        batch_size: int = 32,
        threads: int = 0,
        warm_up: bool = True,
        spin: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: at least 1 expected, got {batch_size}")
        path = model_file(path)
        self.network = open_network(path, threads, spin)
        self.batch_size = batch_size
        self.card = self.network.card
        self.digest = digest_of_file(path)
        self.embedding_dim, self.branch_dims = self.network.embedding_dim, self.network.branch_dims
        self.resize = self.network.resize
        self.img_h, self.img_w = self.resize[:2]
        if warm_up:
            for size in sorted({1, batch_size}):
                self.embed(np.zeros((size, self.img_h, self.img_w, 3), np.uint8))

    def __call__(self, images: Iterable[AnyImage]) -> np.ndarray:
        """Images of any kinds and sizes -> embeddings (N, D) float32 of unit length, in their order.

        Raises:
            DataError: an image cannot be read; the message has its path, or its number from 0.
            ValueError: an image is of an unknown kind.
        """
        rows = [np.empty((0, self.embedding_dim), np.float32)]
        for batch in embed_batches(self, images):
            for error in batch.errors.values():
                raise error
            rows.append(batch.vectors)
        return np.concatenate(rows)

    def prepare(self, image: AnyImage) -> np.ndarray:
        """An image as the network takes it: (img_h, img_w, 3) uint8 RGB, resized as in training if its size differs.

        Files are read as by `decode_bytes`. Arrays and Pillow images are used as they are, without EXIF rotation.

        Raises:
            DataError: it cannot be read.
            ValueError: it is of an unknown kind.
        """
        if isinstance(image, Path | str):
            return decode(Path(image), self.resize)
        if isinstance(image, bytes):
            return decode_bytes(image, self.resize)
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise ValueError(f"pixels: expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
            if image.shape[:2] == (self.img_h, self.img_w):
                return image
            image = Image.fromarray(image)
        if not isinstance(image, Image.Image) or image.mode not in MODES:
            got = f"an image of mode {image.mode}" if isinstance(image, Image.Image) else type(image).__name__
            raise ValueError(f"image: expected a path, bytes, uint8 pixels or a Pillow image of 8 bits, got {got}")
        return np.asarray(self.resize(image.convert("RGB")))

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, img_h, img_w, 3) uint8 RGB, with B at least 1 -> embeddings (B, D) float32 of unit length."""
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (self.img_h, self.img_w, 3) or not len(pixels):
            expected = f"(B, {self.img_h}, {self.img_w}, 3)"
            raise ValueError(f"pixels: expected uint8 {expected}, got {pixels.dtype} {pixels.shape}")
        return self.network.embed(pixels).embeddings


class Batch(NamedTuple):
    """One batch of images: numbers and embeddings of the readable ones, errors of the others by number."""

    numbers: list[int]
    vectors: np.ndarray
    errors: dict[int, Exception]


def embed_batches(predictor: Predictor, images: Iterable[AnyImage]) -> Iterator[Batch]:
    """Embed images batch by batch, some of which may be unreadable; threads prepare the next batches."""

    def prepare(batch: list[tuple[int, AnyImage]]) -> tuple[dict[int, np.ndarray], dict[int, Exception]]:
        pixels: dict[int, np.ndarray] = {}
        errors: dict[int, Exception] = {}
        for number, image in batch:
            try:
                pixels[number] = predictor.prepare(image)
            except (DataError, ValueError) as error:
                is_named = isinstance(image, Path | str)
                errors[number] = error if is_named else type(error)(f"image {number}: {error}")
        return pixels, errors

    numbered = iter(enumerate(images))
    batches = iter(lambda: list(islice(numbered, predictor.batch_size)), [])
    for pixels, errors in read_ahead(prepare, batches):
        vectors = np.empty((0, predictor.embedding_dim), np.float32)
        if pixels:
            vectors = predictor.embed(np.stack(list(pixels.values())))
        yield Batch(list(pixels), vectors, errors)


def predictor_parser(program: str, description: str | None, batch_size: int) -> argparse.ArgumentParser:
    """A command line with the options that choose a predictor; `batch_size` is the default."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    number = whole_number(1, 100_000)
    what = 'a model.onnx, model_best.pth or hub folder, or "hf://owner/name"'
    parser.add_argument("--model", required=True, metavar="MODEL", help=what)
    parser.add_argument(
        "--batch-size", type=number, default=batch_size, metavar="N", help=f"images in a batch; default: {batch_size}"
    )
    parser.add_argument(
        "--threads", type=number, default=0, metavar="N", help="CPU threads of the network; default: all"
    )
    return parser


def predictor_of(args: argparse.Namespace, spin: bool = True) -> Predictor:
    """The predictor that a parsed command line chooses; `spin` is as for `Predictor`."""
    return Predictor(args.model, batch_size=args.batch_size, threads=args.threads, spin=spin)
