"""Embeddings of images of any kind, by an exported model or a checkpoint."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from data.augmentation.normalisation import Normalisation
from data.decoding import decode_bytes
from data.images import decode
from data.read_ahead import read_ahead
from deploy.networks import EmbeddingNetwork, ForeignNetwork, OnnxNetwork, TorchNetwork
from utils.errors import DataError
from utils.files import expand_user

AnyImage = Path | str | bytes | Image.Image | np.ndarray
"""A file's path, its content, an image of Pillow, or (H, W, 3) uint8 RGB pixels."""

MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK", "1")
"""Of Pillow's images: those that mean the same as a file's in `decode_bytes`, but for inverted CMYK."""


class Predictor:
    """Turns images into embeddings of unit length; the cosine of two is their dot product.

    An exported model is run by onnxruntime, a checkpoint by torch; for the same images both give the same embeddings
    and those of the evaluation. Images are decoded, and brought to the network's size as in training, in threads while
    the network computes. Several threads may share one predictor.

    Args:
        path: a model.onnx of export_onnx, or a model_best.pth. Any other .onnx needs the next three.
        batch_size: images the network sees at once.
        threads: processors to compute on; 0 = all.
        img_h, img_w: for an .onnx that does not say so itself, size of the images it takes, pixels.
        normalisation: for such a model, if it takes floating-point pixels, what these are.
        warm_up: embed blank images at once, so that the first real ones do not wait for what happens only once.

    Attributes:
        card: what the model says of itself; None for a checkpoint and for a model of another program.
        digest: SHA-256 of the file, hexadecimal; tells the model from any other.
        embedding_dim: D.
        branch_dims: sizes of the parts of an embedding that were learnt apart; empty if unknown.
        img_h, img_w: size of the images the network sees, pixels.

    Raises:
        DataError: the file cannot be used.
        ValueError: sizes told for a model that says them itself, or only one of them.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        batch_size: int = 32,
        threads: int = 0,
        img_h: int = 0,
        img_w: int = 0,
        normalisation: Normalisation = "imagenet",
        warm_up: bool = True,
    ) -> None:
        path = expand_user(path)
        if batch_size < 1:
            raise ValueError(f"batch_size: at least 1 expected, got {batch_size}")
        self.network = _open(path, threads, img_h, img_w, normalisation)
        self.batch_size = batch_size
        self.card = self.network.card
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.embedding_dim, self.branch_dims = self.network.embedding_dim, self.network.branch_dims
        self.img_h, self.img_w = self.network.img_h, self.network.img_w
        if warm_up:
            for size in sorted({1, batch_size}):
                self.embed(np.zeros((size, self.img_h, self.img_w, 3), np.uint8))

    def __call__(self, images: Iterable[AnyImage]) -> np.ndarray:
        """Images of any kinds and sizes -> embeddings (N, D) float32 of unit length, in their order.

        Raises:
            DataError: an image cannot be read; names it, one that has no name by its place, from 0.
            ValueError: one is of no kind known here.
        """
        rows = [self.embed(np.stack(batch)) for batch in read_ahead(self._prepared, self._batches(images), depth=2)]
        return np.concatenate([np.empty((0, self.embedding_dim), np.float32), *rows])

    def prepare(self, image: AnyImage) -> np.ndarray:
        """An image as the network sees it: (img_h, img_w, 3) uint8 RGB, resized as in training where its size differs.

        What `decode_bytes` says of files holds. Pixels and images of Pillow are taken as they are, never turned.

        Raises:
            DataError: it cannot be read.
            ValueError: it is of no kind known here.
        """
        if isinstance(image, Path | str):
            return decode(Path(image), self.img_h, self.img_w)
        if isinstance(image, bytes):
            return decode_bytes(image, self.img_h, self.img_w)
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise ValueError(f"pixels: expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
            if image.shape[:2] == (self.img_h, self.img_w):
                return image
            image = Image.fromarray(image)
        if not isinstance(image, Image.Image) or image.mode not in MODES:
            got = f"an image of mode {image.mode}" if isinstance(image, Image.Image) else type(image).__name__
            raise ValueError(f"image: expected a path, bytes, uint8 pixels or a Pillow image of 8 bits, got {got}")
        rgb = image.convert("RGB")
        if rgb.size != (self.img_w, self.img_h):
            rgb = rgb.resize((self.img_w, self.img_h), Image.Resampling.BILINEAR)
        return np.asarray(rgb)

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, img_h, img_w, 3) uint8 RGB, of any B from 1 on -> embeddings (B, D) float32 of unit length."""
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (self.img_h, self.img_w, 3) or not len(pixels):
            expected = f"(B, {self.img_h}, {self.img_w}, 3)"
            raise ValueError(f"pixels: expected uint8 {expected}, got {pixels.dtype} {pixels.shape}")
        return self.network.embed(pixels).embeddings

    def _batches(self, images: Iterable[AnyImage]) -> Iterator[list[tuple[int, AnyImage]]]:
        numbered = iter(enumerate(images))
        while batch := list(islice(numbered, self.batch_size)):
            yield batch

    def _prepared(self, batch: list[tuple[int, AnyImage]]) -> list[np.ndarray]:
        return [self._prepared_one(number, image) for number, image in batch]

    def _prepared_one(self, number: int, image: AnyImage) -> np.ndarray:
        try:
            return self.prepare(image)
        except (DataError, ValueError) as error:
            if isinstance(image, Path | str):
                raise
            raise type(error)(f"image {number}: {error}") from error


def _open(path: Path, threads: int, img_h: int, img_w: int, normalisation: Normalisation) -> EmbeddingNetwork:
    if bool(img_h) != bool(img_w):
        raise ValueError(f"img_h, img_w: tell both or none, got {img_h} and {img_w}")
    kind = path.suffix.lower()
    if kind == ".onnx" and img_h:
        return ForeignNetwork(path, img_h, img_w, normalisation, threads)
    if img_h:
        raise ValueError(f"img_h, img_w: {path} says them itself")
    if kind == ".onnx":
        return OnnxNetwork(path, threads)
    if kind == ".pth":
        return TorchNetwork(path, threads)
    raise DataError(f"{path}: expected an .onnx that export_onnx wrote, or a .pth of a training")
