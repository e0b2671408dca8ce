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
from deploy.networks import MIN_LENGTH
from deploy.profiles.profile import Profile
from deploy.profiles.registry import profile_of
from evaluate.core.load_model import Trained
from models.network import ReidNetwork

PRODUCER = "person-reid"


class Exportable(nn.Module):
    """The module that is exported: a network with its preprocessing, so that no user of it can get that wrong.

    Args:
        network: in eval mode; shared, and copied with `half` only.
        normalisation: of the pixels, as in training.
        profile: of the program that uses it.
        resize: how images of other sizes are resized to the network's: as by Pillow and rounded to whole values, or for
            another program without antialiasing; None: they have the network's size.
        half: run the network in float16; pre- and postprocessing stay in float32.
    """

    def __init__(
        self,
        network: ReidNetwork,
        normalisation: Normalisation,
        profile: Profile,
        resize: Resize | None = None,
        half: bool = False,
    ) -> None:
        super().__init__()
        # The modules one by one, and the method by itself: torch generates Python code that names every module on the
        # way to a weight, and `network.branches.global` is not valid Python.
        network = copy.deepcopy(network).half() if half else network
        self.used_modules = nn.ModuleList([network.backbone, *network.heads()])
        self.embed_normalised, self.half_precision = network.embed, half
        self.profile, self.resize = profile, resize
        self.is_normalised = (profile.mean, profile.std) == STATISTICS[normalisation]
        # From the consumer's values to ours: pixel / 255 = value * std + mean.
        taken_means, taken_deviations, means, deviations = (
            torch.tensor(values).view(1, 3, 1, 1) for values in (profile.mean, profile.std, *STATISTICS[normalisation])
        )
        # Both are taken_deviations / deviations; 1 / 255 is not rounded first.
        scale = 1 / (255 * deviations) if profile.is_own else taken_deviations / deviations
        self.scale = nn.Buffer(scale, persistent=False)
        self.shift = nn.Buffer((taken_means - means) / deviations, persistent=False)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images as the profile feeds them -> embeddings (B, D) float32, not of unit length; with `Ours` embeddings of
        unit length, and their lengths (B, 1) before normalisation.
        """
        pixels = images.permute(0, 3, 1, 2) if self.profile.layout == "nhwc" else images
        pixels = pixels.flip(1) if self.profile.is_bgr else pixels
        pixels = self._resized(pixels.float() if self.profile.is_own else pixels)
        normalised = pixels if self.is_normalised else pixels * self.scale + self.shift
        embeddings = self.embed_normalised(normalised.half() if self.half_precision else normalised).float()
        if not self.profile.is_own:
            return embeddings
        lengths = embeddings.norm(dim=1, keepdim=True)
        return embeddings / lengths.clamp_min(MIN_LENGTH), lengths

    def _resized(self, pixels: Tensor) -> Tensor:
        if self.resize is None:
            return pixels
        size, mode = self.resize[:2], self.resize.interpolation
        if not self.profile.is_own:
            return F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        return F.interpolate(pixels, size, mode=mode, align_corners=False, antialias=True).round().clamp(0, 255)


def to_onnx(trained: Trained, options: ExportParams) -> onnx.ModelProto:
    """The graph of a trained network in float32, or in float16 if `options` say so, with a dynamic batch size."""
    params, profile = trained.params, profile_of(options)
    normalisation, resize = params.data_augmentation.normalisation, params.eval_resize if options.resize else None
    exportable = Exportable(trained.network.eval(), normalisation, profile, resize, half=options.precision == "fp16")
    height, width = profile.input_size(*params.eval_resize[:2])
    first = 1 if profile.layout == "nhwc" else 2
    dynamic = {0: torch.export.Dim("batch")}
    if options.resize and profile.is_own:
        # Another size than the network's, so that torch does not specialise on it.
        height, width = height + 8, width + 4
        dynamic |= {first: torch.export.Dim("height"), first + 1: torch.export.Dim("width")}
    shape = (2, height, width, 3) if profile.layout == "nhwc" else (2, 3, height, width)
    images = torch.zeros(shape, dtype=torch.uint8 if profile.is_own else torch.float32)
    return _traced(exportable, images, dynamic, options, profile)


def _traced(
    exportable: nn.Module, images: Tensor, dynamic: dict[int, Any], options: ExportParams, profile: Profile
) -> onnx.ModelProto:
    """The graph of a module for images like these, with the profile's names for its input and outputs."""
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
            input_names=[profile.input_name],
            output_names=list(profile.output_names),
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
