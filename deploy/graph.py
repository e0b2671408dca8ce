"""From a trained network to an ONNX graph: preprocessing included, in float32, float16 or 8 bits."""

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from torch.nn import functional as F

from config.params import ExportParams
from data.augmentation.normalisation import STATISTICS, Normalisation
from data.decoding import Resize
from deploy.networks import EMBEDDING, LENGTH, MIN_LENGTH, PIXELS
from deploy.profiles.profile import Profile
from deploy.profiles.registry import profile_of
from evaluate.core.load_model import Trained
from models.network import ReidNetwork

PRODUCER = "person-reid"


class _Embedding(nn.Module):
    """The part of a network that computes embeddings from normalised images, in float16 with `half`."""

    def __init__(self, network: ReidNetwork, half: bool) -> None:
        super().__init__()
        # The modules one by one, and the method by itself: torch generates Python code that names every module on the
        # way to a weight, and `network.branches.global` is not valid Python.
        network = copy.deepcopy(network).half() if half else network
        self.used_modules = nn.ModuleList([network.backbone, *network.heads()])
        self.embed, self.half_precision = network.embed, half

    def embed_normalised(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) float32 -> embeddings (B, D) float32, not of unit length."""
        return self.embed(images.half() if self.half_precision else images).float()


class Exportable(_Embedding):
    """The module that is exported: a network with its preprocessing, so that no user of it can get that wrong.

    Args:
        network: in eval mode; shared, and copied with `half` only.
        normalisation: of the pixels, as in training.
        layout: of the pixels, "nhwc" or "nchw".
        resize: to what size images of any are resized, as by Pillow and rounded to whole values; None: they have the
            network's size.
        half: run the network in float16; pre- and postprocessing stay in float32.
    """

    def __init__(
        self,
        network: ReidNetwork,
        normalisation: Normalisation,
        layout: str = "nhwc",
        resize: Resize | None = None,
        half: bool = False,
    ) -> None:
        super().__init__(network, half)
        self.layout, self.resize = layout, resize
        means, deviations = (torch.tensor(values).view(1, 3, 1, 1) for values in STATISTICS[normalisation])
        self.scale = nn.Buffer(1 / (255 * deviations), persistent=False)
        self.shift = nn.Buffer(-means / deviations, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 RGB images (B, H, W, 3) or (B, 3, H, W), depending on the layout -> embeddings (B, D) of unit length,
        and their lengths (B, 1) before normalisation; both float32.
        """
        pixels = (images.permute(0, 3, 1, 2) if self.layout == "nhwc" else images).float()
        if self.resize is not None:
            size, mode = self.resize[:2], self.resize.interpolation
            resized = F.interpolate(pixels, size, mode=mode, align_corners=False, antialias=True)
            pixels = resized.round().clamp(0, 255)
        embeddings = self.embed_normalised(pixels * self.scale + self.shift)
        lengths = embeddings.norm(dim=1, keepdim=True)
        return embeddings / lengths.clamp_min(MIN_LENGTH), lengths


class ProfileExportable(_Embedding):
    """The module that is exported for another program: takes what that feeds, and returns the embedding alone.

    Args:
        network, normalisation, half: as for `Exportable`.
        profile: of the other program.
        size: of the network's images, to which images of another size are resized without antialiasing.
    """

    def __init__(
        self, network: ReidNetwork, normalisation: Normalisation, profile: Profile, size: tuple[int, int], half: bool
    ) -> None:
        super().__init__(network, half)
        self.size, self.is_bgr = size, profile.is_bgr
        self.is_normalised = (profile.mean, profile.std) == STATISTICS[normalisation]
        # From the consumer's values to ours: pixel / 255 = value * std + mean.
        taken_means, taken_deviations, means, deviations = (
            torch.tensor(values).view(1, 3, 1, 1) for values in (profile.mean, profile.std, *STATISTICS[normalisation])
        )
        self.scale = nn.Buffer(taken_deviations / deviations, persistent=False)
        self.shift = nn.Buffer((taken_means - means) / deviations, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """float32 images (B, 3, h, w) -> embeddings (B, D) float32, not of unit length."""
        if self.is_bgr:
            images = images.flip(1)
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False)
        return self.embed_normalised(images if self.is_normalised else images * self.scale + self.shift)


def to_onnx(trained: Trained, options: ExportParams) -> onnx.ModelProto:
    """The graph of a trained network in float32, or in float16 if `options` say so, with a dynamic batch size."""
    if profile := profile_of(options):
        params, half = trained.params, options.precision == "fp16"
        normalisation, size = params.data_augmentation.normalisation, params.eval_resize[:2]
        exportable = ProfileExportable(trained.network.eval(), normalisation, profile, size, half)
        images = torch.zeros(2, 3, *input_size(options, *size))
        batch = {0: torch.export.Dim("batch")}
        return _traced(exportable, images, batch, options, [profile.input_name], [profile.output_name])
    return _to_own_onnx(trained, options)


def input_size(options: ExportParams, height: int, width: int) -> tuple[int, int]:
    """The size of the images that a model with a profile takes: the network's, or a square."""
    return (height, height) if options.resize else (height, width)


def _to_own_onnx(trained: Trained, options: ExportParams) -> onnx.ModelProto:
    params = trained.params
    size = params.eval_resize[:2]
    layout = options.layout or "nhwc"
    exportable = Exportable(
        trained.network.eval(),
        params.data_augmentation.normalisation,
        layout,
        params.eval_resize if options.resize else None,
        half=options.precision == "fp16",
    )
    # With resizing, another size than the network's, so that torch does not specialise on it.
    height, width = (size[0] + 8, size[1] + 4) if options.resize else size
    shape = (2, height, width, 3) if layout == "nhwc" else (2, 3, height, width)
    dynamic = {0: torch.export.Dim("batch")}
    if options.resize:
        first = 1 if layout == "nhwc" else 2
        dynamic |= {first: torch.export.Dim("height"), first + 1: torch.export.Dim("width")}
    images = torch.zeros(shape, dtype=torch.uint8)
    return _traced(exportable, images, dynamic, options, [PIXELS], [EMBEDDING, LENGTH])


def _traced(
    exportable: nn.Module,
    images: Tensor,
    dynamic: dict[int, Any],
    options: ExportParams,
    inputs: list[str],
    outputs: list[str],
) -> onnx.ModelProto:
    """The graph of a module for images like these, with names for its input and outputs."""
    for name in ("onnx_ir", "onnxscript"):  # they log every step of the export
        logging.getLogger(name).setLevel(logging.WARNING)
    with torch.inference_mode(), warnings.catch_warnings():
        # torch 2.11 warns of what its own exporter does.
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            exportable.eval(),
            (images,),
            dynamo=True,
            dynamic_shapes={"images": dynamic},
            input_names=inputs,
            output_names=outputs,
            opset_version=options.opset,
            verbose=False,
        )
    assert program is not None
    proto = _without_origins(program.model_proto)
    if options.simplify:
        # Only here, as it takes a second to import.
        import onnxslim

        return onnxslim.slim(proto)  # pyright: ignore[reportReturnType]
    return proto


def quantise(proto: onnx.ModelProto, target: Path, inputs: Iterable[np.ndarray]) -> None:
    """Write a model whose convolutions run in 8 bits, with weights per channel and activations per tensor.

    Everything else stays in float32: preprocessing, pooling, reduction and normalisation cost little time, and much
    accuracy in 8 bits. Weights use 7 bits: processors without VNNI add two products in 16 bits, which 8 overflow.

    Args:
        proto: the model in float32.
        target: the file to write.
        inputs: batches of what the model takes, on which the ranges of the activations are measured.

    Source: Jacob et al. 2018, arXiv 1712.05877 (affine quantisation).
    """
    with tempfile.TemporaryDirectory(prefix="quantise") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, prepared = Path(folder) / "plain.onnx", Path(folder) / "prepared.onnx"
        onnx.save(proto, plain)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Calibration(proto.graph.input[0].name, inputs),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=["Conv"],
            calibrate_method=CalibrationMethod.MinMax,
        )


class _Calibration(CalibrationDataReader):
    """Batches of a model's input."""

    def __init__(self, name: str, batches: Iterable[np.ndarray]) -> None:
        self.name, self.batches = name, iter(batches)

    def get_next(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next batch by the name of the model's input; None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {self.name: np.ascontiguousarray(batch)}


def _without_origins(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what torch records of each node: code lines and paths of the exporting machine."""
    proto.producer_name, proto.producer_version = PRODUCER, ""
    proto.graph.name = PRODUCER
    for entry in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    return proto
