"""A network that nobody trained, and its export, made once for the tests that only look at them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from config.params import ExportParams, Params
from data.dataset import read_dataset
from data.images import decode
from data.samples import Dataset
from deploy.export import export_onnx
from evaluate.core.load_model import Trained, load_trained_network
from models.network import build_network
from utils.checkpoint import Checkpoint, save_checkpoint

OPTIONS = {
    "img_h": 64,
    "img_w": 32,
    "model_params": {
        "model": "resnet_18",
        "last_conv_stride": 2,
        "feature_dim": 16,
        "pcb_n_parts": 2,
        "feature_global_dim": 8,
    },
    "data_augmentation": {"normalisation": "half"},
}


class Model(NamedTuple):
    """A checkpoint, the params of its run, and where its data set lies."""

    path: Path
    params: Params
    dataset: Dataset

    @property
    def trained(self) -> Trained:
        """The network, read anew."""
        return load_trained_network(self.path)

    def exporting(self, **options: object) -> Params:
        """The params with other export_params."""
        return self.params.model_copy(update={"export_params": ExportParams.model_validate(options)})


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, make_market: Callable[[Path], Path]) -> Model:
    folder = tmp_path_factory.mktemp("model")
    market = make_market(folder / "market")
    params = Params.model_validate({**OPTIONS, "batches_dir": str(market)})
    dataset = read_dataset(params)
    torch.manual_seed(0)
    network = build_network(params.model_params, 3)
    images = torch.stack([torch.from_numpy(np.array(decode(one.path, 64, 32))) for one in dataset.train])
    with torch.no_grad():
        # Averages of real images, without which all embeddings would look alike.
        for _ in range(20):
            network((images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
    path = folder / "model_best.pth"
    metrics = {"mAP": 0.5}
    save_checkpoint(path, Checkpoint(network.state_dict(), params.model_dump(mode="json"), [3, 4, 5], metrics))
    return Model(path, params, dataset)


@pytest.fixture(scope="session")
def exported(model: Model) -> Path:
    """The model as an ONNX file, with the default options."""
    path = model.path.with_suffix(".onnx")
    export_onnx(model.path, model.params, path)
    return path


@pytest.fixture(scope="session")
def images(model: Model) -> list[Path]:
    """Some images of the model's size."""
    return [sample.path for sample in (*model.dataset.query, *model.dataset.gallery)][:12]
