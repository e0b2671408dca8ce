"""The network of an exported model or a checkpoint: raw pixels in, embeddings of unit length out."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch

from data.augmentation.normalisation import Normalisation, normalise
from data.decoding import Resize
from deploy.card import ModelCard, card_of_hub
from deploy.profiles.ours import Ours
from deploy.profiles.profile import Profile
from deploy.profiles.registry import profile_named
from evaluate.core.load_model import load_trained_network
from models.network import Embedder
from utils.checkpoint import HUB_WEIGHTS
from utils.device import choose_device
from utils.errors import DataError, first_line
from utils.precision import evaluation_precision
from utils.process import num_own_cpus

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


class Network(ABC):
    """A network that embeds images."""

    profile: Profile
    """What it is made for; how images are read when it is measured."""
    resize: Resize
    """To what size, and how, images are resized for it."""
    embedding_dim: int
    branch_dims: tuple[int, ...]

    @abstractmethod
    def embed(self, pixels: np.ndarray) -> Embeddings:
        """(B, img_h, img_w, 3) RGB, uint8 or, with a profile, values in 0..255 of any type -> embeddings."""


class ExportedNetwork(Network):
    """A model of export_onnx.

    Args:
        card: its card.
        runs_on: what runs it, and where.
    """

    def __init__(self, card: ModelCard, runs_on: str) -> None:
        self.card, self.runs_on = card, runs_on
        self.profile = profile_named(card.profile, card.layout, card.resize)
        self.resize = Resize(*self.profile.input_size(card.img_h, card.img_w), card.interpolation)
        self.embedding_dim, self.branch_dims = card.embedding_dim, card.branch_dims

    @abstractmethod
    def run(self, fed: np.ndarray) -> list[np.ndarray]:
        """What the model returns for its input."""

    def embed(self, pixels: np.ndarray) -> Embeddings:
        """(B, img_h, img_w, 3) RGB, uint8 or, with a profile, values in 0..255 of any type -> embeddings."""
        outputs = self.run(self.profile.encode(pixels))
        if self.profile.is_own:
            return Embeddings(*outputs)
        lengths = np.linalg.norm(outputs[0], axis=1, keepdims=True)
        return Embeddings(outputs[0] / np.maximum(lengths, MIN_LENGTH), lengths)


class OnnxNetwork(ExportedNetwork):
    """An .onnx file, run by onnxruntime: on a GPU if onnxruntime supports one, else on the CPU.

    Args:
        path: the .onnx file.
        threads: CPU threads; 0 = one for each CPU of this process.
        parallels: GPUs of which this process takes its own, as `choose_device` does; empty: the first.
        spin: as for `open_session`.

    Raises:
        DataError: the file cannot be read, or was written by another program.
    """

    def __init__(self, path: Path, threads: int = 0, parallels: Sequence[int] = (), spin: bool = True) -> None:
        self.session = open_session(path, threads, parallels, spin)
        card = card_of(self.session, path)
        if card is None:
            raise DataError(f"{path}: has no model card (no reid.* metadata); export it with export_onnx")
        super().__init__(card, f"onnxruntime on {', '.join(self.session.get_providers())}")

    def run(self, fed: np.ndarray) -> list[np.ndarray]:
        """What the model returns for its input."""
        outputs = self.session.run(list(self.profile.output_names), {self.profile.input_name: fed})
        return [np.asarray(output) for output in outputs]


class TorchNetwork(Network):
    """A checkpoint of start_train or export_hub, run by torch: on the first GPU if there is one, else on the CPU.

    Args:
        path: the .pth file, or the model.safetensors of a hub folder.
        threads: torch's CPU threads in the whole process; 0 = torch's default.

    Raises:
        DataError, ParamsError: as `load_trained_network`.
    """

    profile = Ours()

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


def open_network(path: Path, threads: int = 0, spin: bool = True) -> ExportedNetwork | TorchNetwork:
    """An exported model or a checkpoint; `spin` is for an .onnx file, as for `open_session`.

    Raises:
        DataError, ParamsError: the file cannot be used.
    """
    suffix = path.suffix.lower()
    if suffix in (".pth", ".safetensors"):
        return TorchNetwork(path, threads)
    if suffix in (".onnx", OPENVINO):
        return open_exported(path, threads, spin=spin)
    raise DataError(
        f"{path}: expected an .onnx or .xml of export_onnx, a .pth of a training, or a folder of export_hub"
    )


def open_exported(path: Path, threads: int = 0, parallels: Sequence[int] = (), spin: bool = True) -> ExportedNetwork:
    """A model of export_onnx with any profile; arguments and errors are those of `OnnxNetwork`."""
    if path.suffix.lower() != OPENVINO:
        return OnnxNetwork(path, threads, parallels, spin)
    # Only here, as few have OpenVINO.
    from deploy.openvino import OpenVinoNetwork

    return OpenVinoNetwork(path, threads)


def open_session(
    path: Path, threads: int = 0, parallels: Sequence[int] = (), spin: bool = True
) -> onnxruntime.InferenceSession:
    """An ONNX file ready to run, on a GPU if this build of onnxruntime supports one.

    Args:
        threads: CPU threads; 0 = one for each CPU of this process, which may be fewer than the machine's.
        parallels: GPUs of which this process takes its own; empty: the first.
        spin: threads spin while they wait for each other, which is fastest if no other thread needs the CPUs.

    Raises:
        DataError: it is missing, damaged or not a model.
        ParamsError: a GPU in `parallels` does not exist.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or num_own_cpus()
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
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
    is_fp16 = card is not None and card.precision == "fp16"
    return {"cudnn_conv_algo_search": "HEURISTIC", **({} if is_fp16 else {"use_tf32": 0})}


def card_of(session: onnxruntime.InferenceSession, path: Path) -> ModelCard | None:
    """The card of a model; None if another program wrote it; raises like `ModelCard.from_metadata`."""
    return ModelCard.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
