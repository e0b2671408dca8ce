"""From a trained network to one ONNX file that is checked to give the same embeddings."""

import hashlib
import json
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch

from config.params import ExportParams, Params
from data.augmentation.normalisation import STATISTICS
from data.decoding import Resize
from data.samples import Dataset, Sample
from deploy.card import ModelCard
from deploy.checks import BATCH, NOT_MEASURED, Measured, check_parity, measure_if_possible, read_measured
from deploy.graph import quantise, to_onnx
from deploy.networks import OPENVINO, TorchNetwork, open_exported
from deploy.profiles.registry import profile_of
from evaluate.core.load_model import Trained, load_trained_network
from evaluate.core.table import comparison_table
from models.network import Embedder
from utils.errors import DataError, ParamsError
from utils.files import atomic_path

NUM_PARITY_IMAGES = 64
MAX_MAP_LOSS = 0.01
"""Loss of mAP above which the export warns."""

logger = logging.getLogger(__name__)


def export_onnx(model: Path, params: Params, out: Path) -> ModelCard:
    """Write a trained network as an ONNX model, but only if it gives the same embeddings.

    The model takes raw pixels, with normalisation inside, and returns `embedding` (B, D) of unit length and `length`
    (B, 1); with a profile, what that says. Its metadata is a `ModelCard`.

    Args:
        model: the checkpoint.
        params: of the run; `export_params` are the options, `batches_dir` is the data set.
        out: the .onnx file. If anything fails, it is not written, and an existing file stays.

    Raises:
        DataError: the checkpoint or data set cannot be used, or the embeddings differ.
        ParamsError: an option contradicts the profile.
    """
    options = params.export_params
    profile = profile_of(options)
    trained = load_trained_network(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    dataset = read_measured(params)
    parity_images = _spread([*dataset.query, *dataset.gallery] or dataset.train, NUM_PARITY_IMAGES)
    if not parity_images:
        raise DataError("the data set has no images to check the export with; use another: --set batches_dir=DIR")
    if (out.suffix == OPENVINO) != (options.profile == "openvino"):
        raise ParamsError(f'--out: export_params.profile "openvino", and only it, writes an {OPENVINO} file; got {out}')
    with _unfinished(out) as unfinished:
        _write(trained, params, dataset, unfinished)
        _set_card(unfinished, model_card(trained, options, NOT_MEASURED))
        check_parity(unfinished, trained, options, parity_images)
        card = model_card(trained, options, _measured(unfinished, model, params, dataset))
        _set_card(unfinished, card)
        if sidecar := profile.sidecar(unfinished, card):
            name, text = sidecar
            unfinished.with_name(name).write_text(text, encoding="utf-8")
    if warning := profile.warning(params.img_h, params.img_w):
        logger.warning(warning)
    size = (out.with_suffix(".bin") if out.suffix == OPENVINO else out).stat().st_size / 1e6
    logger.info("written: %s, %.1f MB, opset %d, %s", out, size, card.opset, card.precision)
    return card


@contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """A path in a folder of its own for a model; its files then replace those beside `out`, the model's last."""
    with tempfile.TemporaryDirectory(prefix="export-") as folder, atomic_path(out) as model:
        path = Path(folder) / out.name
        yield path
        for file in path.parent.iterdir():
            if file != path:
                with atomic_path(out.with_name(file.name)) as beside:
                    shutil.copyfile(file, beside)
        shutil.copyfile(path, model)


def _write(trained: Trained, params: Params, dataset: Dataset, target: Path) -> None:
    """Write the model file, without a card."""
    options = params.export_params
    batches: Iterator[np.ndarray] = iter(())
    if options.precision == "int8":
        if not dataset.train:
            raise DataError('export_params.precision: "int8" needs training images, but the data set has none')
        batches = _calibration(_spread(dataset.train, options.calibration_images), params)
    if target.suffix == OPENVINO:
        from deploy.openvino import convert

        convert(to_onnx(trained, options.model_copy(update={"precision": "fp32"})), target, options.precision, batches)
        return
    proto = to_onnx(trained, options)
    if options.precision == "int8":
        quantise(proto, target, batches)
    else:
        onnx.save(proto, target)
    onnx.checker.check_model(target, full_check=True)


def _spread(samples: Sequence[Sample], number: int) -> list[Path]:
    """The paths of so many samples, spread evenly over all."""
    places = np.linspace(0, len(samples) - 1, min(number, len(samples))).astype(int)
    return [samples[place].path for place in places]


def file_name(params: Params) -> str:
    """The name that the profile gives to the exported file; "" if it gives none."""
    return profile_of(params.export_params).file_name(params.model_params.model, params.img_h, params.img_w)


def _calibration(paths: Sequence[Path], params: Params) -> Iterator[np.ndarray]:
    """Batches of images as the model takes them."""
    profile = profile_of(params.export_params)
    height, width, interpolation = params.eval_resize
    resize = Resize(*profile.input_size(height, width), interpolation)
    for first in range(0, len(paths), BATCH):
        yield profile.encode(np.stack([profile.read(path, resize) for path in paths[first : first + BATCH]]))


def _measured(path: Path, model: Path, params: Params, dataset: Dataset) -> Measured:
    """The metrics of an exported model on the test set, in 8 bits or with a profile beside those of its checkpoint."""
    options = params.export_params
    if not options.measured_images:
        return NOT_MEASURED
    network = open_exported(path)
    after = measure_if_possible(params, dataset, network)
    if not after.metrics:
        return after
    resized = "" if network.profile.is_own else f", resized as by {network.profile.consumer}"
    rows = {f"exported, {options.precision}{resized}": after.metrics}
    if options.precision == "int8" or resized:
        before = measure_if_possible(params, dataset, TorchNetwork(model))
        rows = {"trained": before.metrics, **rows}
        if (loss := before.metrics["mAP"] - after.metrics["mAP"]) > MAX_MAP_LOSS:
            cause = "8 bits cost" if options.precision == "int8" else f"images{resized} cost"
            logger.warning("%s %.1f points of mAP here", cause, 100 * loss)
    logger.info("measured on %d test images\n%s", after.num_images, comparison_table(rows))
    return after


def _set_card(path: Path, card: ModelCard) -> None:
    """Replace the metadata of a model file."""
    if path.suffix == OPENVINO:
        from deploy.openvino import set_card

        set_card(path, card)
        return
    proto = onnx.load(path)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, card.to_metadata())
    onnx.save(proto, path)


def model_card(trained: Trained, options: ExportParams, measured: Measured) -> ModelCard:
    """The card of a network that is exported."""
    params = trained.params
    mean, std = STATISTICS[params.data_augmentation.normalisation]
    return ModelCard(
        img_h=params.img_h,
        img_w=params.img_w,
        profile=options.profile,
        resize=options.resize,
        layout=profile_of(options).layout,
        mean=mean,
        std=std,
        interpolation=params.data_augmentation.interpolation,
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
        measured=measured.metrics,
        num_measured=measured.num_images,
        thresholds=measured.thresholds,
        params=params.model_dump(mode="json"),
    )


def _commit() -> str:
    """The commit of this code; "" without git or a checkout."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
