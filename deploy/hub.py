"""From a trained network to a folder that can be published on the Hugging Face hub."""

import json
import logging
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from config.params import ExportParams, Params
from deploy import roboflow
from deploy.card import ModelCard
from deploy.checks import NOT_MEASURED, measure_if_possible, read_measured
from deploy.export import model_card
from deploy.networks import TorchNetwork
from evaluate.core.load_model import load_trained_network
from utils.checkpoint import HUB_WEIGHTS
from utils.errors import optional_imports
from utils.files import atomic_path, write_json, write_text
from utils.hub import CONFIG, HASHES, digest_of_file

README, TEMPLATE = "README.md", "hub_readme.md.j2"
METRICS = "metrics.jsonl"
"""Beside the model in a run's folder: one JSON object per epoch."""
MAX_EPOCHS = 10
"""Rows of the README's table of epochs."""

logger = logging.getLogger(__name__)


def export_hub(model: Path, params: Params, out: Path) -> ModelCard:
    """Write a trained network as a folder for the hub: weights, settings with their hashes, and a README.

    Where roboflow's `reid` has an architecture of the same embeddings, its two files are written, too.

    Args:
        model: the checkpoint.
        params: of the run; `export_params` are the options, `batches_dir` is the data set to measure on.
        out: the folder. Until config.json is written last, loading what is there is refused.

    Raises:
        DataError: the checkpoint or data set cannot be used, or a file cannot be written.
    """
    with optional_imports("export_hub", "pip install safetensors huggingface_hub"):
        import huggingface_hub  # noqa: F401 the README needs it, which is written late
        from safetensors.torch import save_file
    trained, measured = load_trained_network(model), NOT_MEASURED
    if params.export_params.measured_images:
        measured = measure_if_possible(params, read_measured(params), TorchNetwork(model))
    # The other options, such as a profile, are those of export_onnx.
    card = model_card(trained, ExportParams(), measured)
    content = {**card.model_dump(mode="json"), "params": without_places(card.params), "labels": list(trained.labels)}
    out.mkdir(parents=True, exist_ok=True)
    weights = {HUB_WEIGHTS: trained.network.state_dict()}
    if found := roboflow.reid_model(trained):
        settings, weights[roboflow.WEIGHTS] = found
        write_json(out / roboflow.CONFIG, settings)
    else:
        for name in (roboflow.CONFIG, roboflow.WEIGHTS):
            (out / name).unlink(missing_ok=True)
        logger.info("without %s: roboflow's reid has no architecture of these embeddings", roboflow.CONFIG)
    for name, tensors in weights.items():
        with atomic_path(out / name) as unfinished:
            save_file({key: value.contiguous() for key, value in tensors.items()}, unfinished, {"format": "pt"})
    epochs = epochs_of(model.with_name(METRICS))
    write_text(out / README, readme(card, params, epochs, measured.skips_own_camera, found is not None))
    write_json(out / CONFIG, {**content, HASHES: {name: digest_of_file(out / name) for name in weights}})
    logger.info("written: %s; publish it: hf upload OWNER/NAME %s", out, out)
    return card


def without_places(value: Any) -> Any:
    """Settings in which absolute paths are reduced to their last name, so that none of this machine is published."""
    if isinstance(value, dict):
        return {key: without_places(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_places(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def epochs_of(path: Path) -> list[dict[str, Any]]:
    """Some of the epochs of a run, evenly spread, the last one included; none if there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    step = -(-len(lines) // MAX_EPOCHS) or 1
    return [json.loads(line) for line in lines[::-step][::-1]]


def readme(
    card: ModelCard, params: Params, epochs: list[dict[str, Any]], skips_own_camera: bool, for_roboflow: bool
) -> str:
    """The README, whose first lines the hub reads as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    data = ", ".join(Path(path).name for path in params.sources)
    kind = "image-feature-extraction"
    tested = Path(params.test_sets[0]).name
    results = [EvalResult(kind, tested, tested, name, value) for name, value in (card.measured or card.metrics).items()]
    header = ModelCardData(
        license=params.export_params.licence or None,
        library_name="person-reid",
        pipeline_tag=kind,
        tags=["person-re-identification", "re-id", card.backbone],
        model_name=f"{card.backbone} {data}",
        eval_results=results or None,
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    values = {
        "header": header.to_yaml(),
        "data": data,
        "tested": tested,
        "card": card,
        "params": params,
        "epochs": epochs,
    }
    values |= {"skips_own_camera": skips_own_camera, "for_roboflow": for_roboflow}
    return environment.get_template(TEMPLATE).render(values) + "\n"
