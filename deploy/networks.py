"""The network of an exported model or a checkpoint: raw pixels in, embeddings of unit length out."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch

from data.augmentation.normalisation import STATISTICS, Normalisation, normalise
from data.decoding import Resize
from deploy.card import ModelCard, card_of_hub
from deploy.profiles.registry import PROFILES
from evaluate.core.load_model import load_trained_network
from models.network import Embedder
from utils.checkpoint import HUB_WEIGHTS
from utils.device import choose_device
from utils.errors import DataError, first_line
from utils.precision import evaluation_precision
from utils.process import num_own_cpus

PIXELS, EMBEDDING, LENGTH = "images", "embedding", "length"
"""Names of the input and the outputs of an exported model."""
MIN_LENGTH = 1e-12
"""Lower bound of the divisor: an embedding of zeros stays zeros."""
OPENVINO = ".xml"
"""Suffix of OpenVINO's models."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
"""onnxruntime's names of devices."""

logger = logging.getLogger(__name__)


class Embeddings(NamedTuple):
    """The output of a network for B images."""

    embeddings: np.ndarray
    """(B, D) float32, of unit length; zeros if the network returned zeros."""
    lengths: np.ndarray
    """(B, 1) float32, their lengths before normalisation."""


class ExportedNetwork(ABC):
    """A model of export_onnx.

    Args:
        card: its card.
        size: height and width of the images it takes.
        runs_on: what runs it, and where.
    """

    def __init__(self, card: ModelCard, size: tuple[int, int], runs_on: str) -> None:
        self.card, self.profile, self.runs_on = card, PROFILES.get(card.profile), runs_on
        self.resize = Resize(*size, card.interpolation)
        self.embedding_dim, self.branch_dims = card.embedding_dim, card.branch_dims

    @abstractmethod
    def embed(self, pixels: np.ndarray) -> Embeddings:
        """(B, img_h, img_w, 3) RGB, uint8 or, with a profile, values in 0..255 of any type -> embeddings."""


class OnnxNetwork(ExportedNetwork):
    """An .onnx file, run by onnxruntime: on a GPU if onnxruntime supports one, else on the CPU.

    Args:
        path: the .onnx file.
        threads: CPU threads; 0 = one for each CPU of this process.
        parallels: GPUs of which this process takes its own, as `choose_device` does; empty: the first.

    Raises:
        DataError: the file cannot be read, or was written by another program.
    """

    def __init__(self, path: Path, threads: int = 0, parallels: Sequence[int] = ()) -> None:
        self.session = open_session(path, threads, parallels)
        card = card_of(self.session, path)
        if card is None:
            advice = "export it with export_onnx, or give the sizes of its images: img_h, img_w"
            raise DataError(f"{path}: has no model card (no reid.* metadata); {advice}")
        has_profile = card.profile in PROFILES
        size = self.session.get_inputs()[0].shape[2:] if has_profile else (card.img_h, card.img_w)
        super().__init__(card, size, f"onnxruntime on {', '.join(self.session.get_providers())}")

    def embed(self, pixels: np.ndarray) -> Embeddings:
        """(B, img_h, img_w, 3) RGB, uint8 or, with a profile, values in 0..255 of any type -> embeddings."""
        if self.profile is not None:
            return unit_length(_run(self.session, self.profile.encode(pixels))[0])
        given = pixels if self.card.layout == "nhwc" else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        return Embeddings(*_run(self.session, given, [EMBEDDING, LENGTH]))


def open_exported(path: Path, threads: int = 0, parallels: Sequence[int] = ()) -> ExportedNetwork:
    """A model of export_onnx with any profile; arguments and errors are those of `OnnxNetwork`."""
    if path.suffix.lower() != OPENVINO:
        return OnnxNetwork(path, threads, parallels)
    # Only here, as few have OpenVINO.
    from deploy.openvino import OpenVinoNetwork

    return OpenVinoNetwork(path, threads)


class ForeignNetwork:
    """A model of another program: one input of images; the first output (B, D) is the embedding.

    Its input shows the dtype (uint8 or normalised floats), the layout and whether the batch size is 1; the caller gives
    the normalisation of the images, and how they are to be resized.

    Raises:
        DataError: the file cannot be read, or has other inputs or outputs.
        ValueError: it is a model of export_onnx, whose card has the sizes.
    """

    card: ModelCard | None = None
    branch_dims: tuple[int, ...] = ()

    def __init__(self, path: Path, resize: Resize, normalisation: Normalisation, threads: int = 0) -> None:
        self.session = open_session(path, threads)
        if card_of(self.session, path) is not None:
            raise ValueError(f"img_h, img_w: {path} already has them")
        self.resize = resize
        img_h, img_w, _ = resize
        self.means, self.deviations = (np.array(values, np.float32) for values in STATISTICS[normalisation])
        taken = self.session.get_inputs()
        types = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}
        shape = taken[0].shape
        if len(taken) != 1 or taken[0].type not in types or len(shape) != 4 or 3 not in (shape[1], shape[3]):
            got = ", ".join(f"{one.name} {one.type} {one.shape}" for one in taken)
            raise DataError(f"{path}: expected one input (B, 3, H, W) or (B, H, W, 3) of uint8 or floats, got {got}")
        self.dtype, self.channels_first = types[taken[0].type], shape[1] == 3
        height, width = shape[2:] if self.channels_first else shape[1:3]
        if (isinstance(height, int) and height != img_h) or (isinstance(width, int) and width != img_w):
            raise DataError(f"{path}: takes images of {height} x {width}, got {img_h} x {img_w}")
        if isinstance(shape[0], int) and shape[0] != 1:
            raise DataError(f"{path}: takes exactly {shape[0]} images at once; export it with a dynamic batch size")
        self.one_by_one = shape[0] == 1
        blank = _run(self.session, self._input(np.zeros((1, img_h, img_w, 3), np.uint8)))[0]
        if blank.ndim != 2 or len(blank) != 1:
            raise DataError(f"{path}: its first output is not (B, D) but {blank.shape}")
        self.embedding_dim = blank.shape[1]

    def embed(self, pixels: np.ndarray) -> Embeddings:
        """(B, img_h, img_w, 3) uint8 RGB -> embeddings."""
        parts = np.split(pixels, len(pixels)) if self.one_by_one else [pixels]
        rows = np.concatenate([_run(self.session, self._input(part))[0] for part in parts]).astype(np.float32)
        return unit_length(rows)

    def _input(self, pixels: np.ndarray) -> np.ndarray:
        if self.dtype != np.uint8:
            pixels = (pixels.astype(np.float32) / 255 - self.means) / self.deviations
        given = pixels.transpose(0, 3, 1, 2) if self.channels_first else pixels
        return np.ascontiguousarray(given, dtype=self.dtype)


class TorchNetwork:
    """A checkpoint of start_train or export_hub, run by torch: on the first GPU if there is one, else on the CPU.

    Args:
        path: the .pth file, or the model.safetensors of a hub folder.
        threads: torch's CPU threads in the whole process; 0 = torch's default.

    Raises:
        DataError, ParamsError: as `load_trained_network`.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        params, labels, network, _ = load_trained_network(path)
        self.card = card_of_hub(path) if path.name == HUB_WEIGHTS else None
        self.device = choose_device(())
        placed = network.to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.embedder = Embedder(placed, labels).eval()
        self.precision = evaluation_precision(params.precision, self.device)
        self.normalisation: Normalisation = params.data_augmentation.normalisation
        self.resize = params.eval_resize
        self.embedding_dim, self.branch_dims = network.embedding_dim, self.embedder.branch_dims

    @torch.inference_mode()
    def embed(self, pixels: np.ndarray) -> Embeddings:
        """(B, img_h, img_w, 3) uint8 RGB -> embeddings."""
        # torch warns of read-only memory, although nothing is written here.
        images = torch.from_numpy(np.require(pixels, requirements="W")).to(self.device).permute(0, 3, 1, 2)
        with self.precision.autocast(self.device):
            rows = self.embedder(normalise(images, self.normalisation)).float()
        lengths = rows.norm(dim=1, keepdim=True)
        return Embeddings((rows / lengths.clamp_min(MIN_LENGTH)).cpu().numpy(), lengths.cpu().numpy())


def open_session(path: Path, threads: int = 0, parallels: Sequence[int] = ()) -> onnxruntime.InferenceSession:
    """An ONNX file ready to run, on a GPU if this build of onnxruntime supports one.

    Args:
        threads: CPU threads; 0 = one for each CPU of this process, which may be fewer than the machine's.
        parallels: GPUs of which this process takes its own; empty: the first.

    Raises:
        DataError: it is missing, damaged or not a model.
        ParamsError: a GPU in `parallels` does not exist.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or num_own_cpus()
    options.log_severity_level = 3  # errors only
    session = _open(path, options, [CPU])
    if CUDA not in onnxruntime.get_available_providers():
        return session
    on_gpu = {"device_id": choose_device(parallels).index or 0, **_cuda_options(session, path)}
    session = _open(path, options, [(CUDA, on_gpu), CPU])
    if CUDA not in session.get_providers():
        logger.warning(
            "onnxruntime cannot use a GPU and runs %s on the CPU; install the versions of CUDA and cuDNN that this "
            "onnxruntime-gpu was built for, or onnxruntime without -gpu",
            path,
        )
    return session


def _open(path: Path, options: onnxruntime.SessionOptions, providers: Sequence[Any]) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    # onnxruntime raises errors of many undocumented types; the file is the cause of all of them.
    except Exception as error:
        raise DataError(f"{path}: not an ONNX model that can be run ({first_line(error)})") from error


def _cuda_options(session: onnxruntime.InferenceSession, path: Path) -> dict[str, str | int]:
    """Settings of onnxruntime's CUDA provider for a model.

    By default it searches exhaustively for the fastest convolutions, for each batch size anew. It also computes float32
    products in TF32, which has ten bits; without it float16 would lose the tensor cores, too.

    Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
    """
    card = card_of(session, path)
    inputs = [each.type for each in session.get_inputs()]
    is_fp16 = "tensor(float16)" in inputs if card is None else card.precision == "fp16"
    return {"cudnn_conv_algo_search": "HEURISTIC", **({} if is_fp16 else {"use_tf32": 0})}


def _run(
    session: onnxruntime.InferenceSession, given: np.ndarray, names: Sequence[str] | None = None
) -> list[np.ndarray]:
    """The named outputs, or all, of a model with one input."""
    return [np.asarray(output) for output in session.run(names, {session.get_inputs()[0].name: given})]


def unit_length(rows: np.ndarray) -> Embeddings:
    """Embeddings (B, D), and their lengths."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return Embeddings(rows / np.maximum(lengths, MIN_LENGTH), lengths)


def card_of(session: onnxruntime.InferenceSession, path: Path) -> ModelCard | None:
    """The card of a model; None if another program wrote it; raises like `ModelCard.from_metadata`."""
    return ModelCard.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
