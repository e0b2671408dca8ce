"""An untrained network and its export, made once; and a predictor that needs no network."""

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from config.params import ExportParams, Params
from data.dataset import read_dataset
from data.decoding import Interpolation, Resize, decode_bytes
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

    def resized_by(self, interpolation: Interpolation) -> "Model":
        """The same network as if it had been trained with another interpolation, in a file beside this one."""
        augmentation = self.params.data_augmentation.model_copy(update={"interpolation": interpolation})
        params = self.params.model_copy(update={"data_augmentation": augmentation})
        path = self.path.with_name(f"{interpolation}.pth")
        weights, labels = self.trained.network.state_dict(), list(self.trained.labels)
        save_checkpoint(path, Checkpoint(weights, params.model_dump(mode="json"), labels, {}))
        return self._replace(path=path, params=params)

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
    images = torch.stack([torch.from_numpy(np.array(decode(one.path, params.eval_resize))) for one in dataset.train])
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


class MeanColour:
    """Embeds an image by its mean colour; can be held up, and made to fail."""

    resize = Resize(8, 4, "bilinear")
    img_h, img_w, embedding_dim, batch_size = 8, 4, 3, 4
    digest, card = "digest", None

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.error: Exception | None = None

    def prepare(self, image: Path | bytes) -> np.ndarray:
        if isinstance(image, Path):
            return decode(image, self.resize)
        return decode_bytes(image, self.resize)

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(len(pixels))
        self.may_go_on.wait(timeout=10)
        if self.error is not None:
            raise self.error
        rows = pixels.mean(axis=(1, 2)) + 1
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def network() -> MeanColour:
    return MeanColour()


def png(colour: tuple[int, int, int], size: tuple[int, int] = (4, 8)) -> bytes:
    """An image of one colour."""
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()
