"""From a trained network to one ONNX file that is known to say the same."""

import hashlib
import json
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch

from config.params import ExportParams, Params
from data.augmentation.normalisation import STATISTICS
from data.dataset import read_dataset
from data.images import decode
from data.samples import Dataset
from deploy.card import ModelCard
from deploy.embedder import ExportedEmbedder
from deploy.exportable import EMBEDDING, LENGTH, PIXELS, Exportable
from deploy.measure import Measured, measure, thinned
from deploy.networks import OnnxNetwork
from deploy.parity import check_parity, trial_images
from deploy.quantise import quantise
from evaluate.core.load_model import Trained, load_trained_network
from evaluate.core.table import comparison_table
from models.network import Embedder
from utils.errors import DataError
from utils.files import atomic_path

PRODUCER = "person-reid"
LOST_MAP = 0.01
"""Loss of mAP through 8 bits from which on the export warns."""

logger = logging.getLogger(__name__)


def export_onnx(model: Path, params: Params, out: Path) -> ModelCard:
    """Write a trained network as an ONNX model, but only if it gives the same embeddings.

    The model takes raw pixels, with normalisation inside, and gives `embedding` (B, D) of unit length and `length`
    (B, 1). What it was trained on and reached stands in its metadata.

    Args:
        model: the checkpoint.
        params: of the run; `export_params` says how, `batches_dir` where the data set lies.
        out: the .onnx file. If anything fails, none is written, and one that was there stays.

    Raises:
        DataError: the checkpoint or data set cannot be used, or the model does not say the same as the network.
    """
    options = params.export_params
    trained = load_trained_network(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    dataset = read_dataset(params)
    trials = trial_images(dataset)
    with atomic_path(out) as unfinished, tempfile.TemporaryDirectory(prefix="export_onnx") as scratch:
        plain = Path(scratch) / "plain.onnx"
        proto = _simplified(to_onnx(trained, options)) if options.simplify else to_onnx(trained, options)
        onnx.save(proto, plain)
        if options.precision == "int8":
            calibrating = [decode(path, params.img_h, params.img_w) for path in _calibrating(dataset, options)]
            quantise(plain, unfinished, calibrating, options.layout)
        else:
            shutil.copyfile(plain, unfinished)
        _finish(unfinished, _card(trained, options, None))
        onnx.checker.check_model(unfinished, full_check=True)
        check_parity(unfinished, trained, options, trials)
        measured = _measured(unfinished, trained, params, dataset)
        card = _card(trained, options, measured)
        _finish(unfinished, card)
    logger.info("written: %s, %.1f MB, opset %d, %s", out, out.stat().st_size / 1e6, card.opset, card.precision)
    return card


def to_onnx(trained: Trained, options: ExportParams) -> onnx.ModelProto:
    """The graph of a trained network in float32 or, where asked for, float16, with a free batch size."""
    params = trained.params
    size = (params.img_h, params.img_w)
    exportable = Exportable(
        trained.network.eval(),
        params.data_augmentation.normalisation,
        options.layout,
        size if options.resize else None,
        half=options.precision == "fp16",
    ).eval()
    # Another size than the network's, so that torch does not take it for the only one.
    height, width = (size[0] + 8, size[1] + 4) if options.resize else size
    shape = (2, height, width, 3) if options.layout == "nhwc" else (2, 3, height, width)
    places = {"nhwc": ("batch", "height", "width"), "nchw": ("batch", None, "height", "width")}[options.layout]
    free = {
        place: torch.export.Dim(name)
        for place, name in enumerate(places)
        if name == "batch" or (name is not None and options.resize)
    }
    with torch.inference_mode(), _quiet("onnx_ir", "onnxscript"):
        program = torch.onnx.export(
            exportable,
            (torch.zeros(shape, dtype=torch.uint8),),
            dynamo=True,
            dynamic_shapes={"images": free},
            input_names=[PIXELS],
            output_names=[EMBEDDING, LENGTH],
            opset_version=options.opset,
            verbose=False,
        )
    assert program is not None
    return _without_origins(program.model_proto)


def _without_origins(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Drops what torch notes of each node: lines of code and paths of the machine that exported it."""
    proto.producer_name, proto.producer_version = PRODUCER, ""
    proto.graph.name = PRODUCER
    for entry in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    return proto


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Within this block some loggers tell of nothing below a warning: torch's exporter tells of every step it takes."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def _simplified(proto: onnx.ModelProto) -> onnx.ModelProto:
    # Only here, as it takes a second to import.
    import onnxslim

    return onnxslim.slim(proto)  # pyright: ignore[reportReturnType]


def _finish(path: Path, card: ModelCard) -> None:
    """Give a model file its metadata."""
    proto = onnx.load(path)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, card.to_metadata())
    onnx.save(proto, path)


def _calibrating(dataset: Dataset, options: ExportParams) -> list[Path]:
    """Training images spread evenly over all of them."""
    if not dataset.train:
        raise DataError('export_params.precision: "int8" learns from training images, but the data set has none')
    places = np.linspace(0, len(dataset.train) - 1, min(options.calibration_images, len(dataset.train))).astype(int)
    return [dataset.train[place].path for place in places]


def _measured(path: Path, trained: Trained, params: Params, dataset: Dataset) -> Measured | None:
    """What the exported model reaches on the test set, beside the network itself where it may have lost something."""
    options = params.export_params
    if not options.measured_images:
        return None
    part = thinned(dataset, options.measured_images)
    network = ExportedEmbedder(OnnxNetwork(path), params.data_augmentation.normalisation)
    try:
        after = measure(params, part, network)
    except DataError as error:
        logger.warning("not measured, and without thresholds: %s", error)
        return None
    rows = {f"exported, {options.precision}": after.metrics}
    if options.precision == "int8":
        before = measure(params, part, Embedder(trained.network).eval())
        rows = {"trained": before.metrics, **rows}
        if (lost := before.metrics["mAP"] - after.metrics["mAP"]) > LOST_MAP:
            logger.warning('8 bits cost %.1f points of mAP here; "fp32" costs none', 100 * lost)
    logger.info("measured on %d test images\n%s", after.num_images, comparison_table(rows))
    return after


def _card(trained: Trained, options: ExportParams, measured: Measured | None) -> ModelCard:
    params = trained.params
    mean, std = STATISTICS[params.data_augmentation.normalisation]
    return ModelCard(
        img_h=params.img_h,
        img_w=params.img_w,
        resize=options.resize,
        layout=options.layout,
        mean=mean,
        std=std,
        embedding_dim=trained.network.embedding_dim,
        branch_dims=Embedder(trained.network).branch_dims,
        backbone=params.model_params.model,
        precision=options.precision,
        opset=options.opset,
        num_labels=len(trained.labels),
        labels_sha256=hashlib.sha256(json.dumps(list(trained.labels)).encode()).hexdigest(),
        commit=_commit(),
        torch=torch.__version__,
        metrics=dict(trained.metrics),
        measured={} if measured is None else measured.metrics,
        num_measured=0 if measured is None else measured.num_images,
        thresholds=() if measured is None else measured.thresholds,
        params=params.model_dump(mode="json"),
    )


def _commit() -> str:
    """Of the checkout this code lies in; "" where there is no git or no checkout."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
