"""Sessions of onnxruntime on a GPU, rehearsed with a stand-in that notes its settings and computes on the CPU."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import deploy.networks as networks
from deploy.export import export_onnx
from deploy.networks import CPU, CUDA, OnnxNetwork, open_session
from deploy.predictor import Predictor
from tests.deploy.conftest import Model
from utils.errors import DataError, ParamsError

Provider = str | tuple[str, dict[str, Any]]


class GpuSession(onnxruntime.InferenceSession):
    """Says that it runs on a GPU if asked to, and has what TF32 would change in its results."""

    is_usable = True
    error = 0.0
    opened: list[list[Provider]]

    def __init__(self, path: Path, options: onnxruntime.SessionOptions, providers: list[Provider]) -> None:
        self.opened.append(providers)
        self.on_gpu = self.is_usable and providers != [CPU]
        super().__init__(path, options, providers=[CPU])

    def get_providers(self) -> list[str]:
        return [CUDA, CPU] if self.on_gpu else [CPU]

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> list[np.ndarray]:
        outputs = super().run(output_names, input_feed, run_options)
        return [np.asarray(output) + self.error * self.on_gpu for output in outputs]


@pytest.fixture
def gpu_session(monkeypatch: pytest.MonkeyPatch) -> type[GpuSession]:
    class Session(GpuSession):
        opened: list[list[Provider]] = []  # noqa: RUF012 of this test

    monkeypatch.setattr(networks.onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(networks.onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    return Session


def options_of(session: type[GpuSession]) -> dict[str, Any]:
    """What the last session was asked to do on the GPU; the CPU takes what that cannot."""
    gpu, cpu = session.opened[-1]
    assert isinstance(gpu, tuple)
    assert (gpu[0], cpu) == (CUDA, CPU)
    return gpu[1]


def test_a_gpu_neither_rounds_nor_searches_for_each_batch_size(
    gpu_session: type[GpuSession], exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = OnnxNetwork(exported)
    assert options_of(gpu_session) == {"device_id": 0, "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": 0}
    assert network.embed(np.zeros((2, 64, 32, 3), np.uint8)).embeddings.shape == (2, 24)
    assert caplog.text == ""


def test_float16_keeps_the_tensor_cores(gpu_session: type[GpuSession], model: Model, tmp_path: Path) -> None:
    export_onnx(model.path, model.exporting(precision="fp16", measured_images=0), tmp_path / "model.onnx")
    assert "use_tf32" not in options_of(gpu_session)


def test_each_process_takes_its_own_gpu(
    gpu_session: type[GpuSession], exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParamsError, match="no GPU 2"):
        open_session(exported, parallels=(2,))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    open_session(exported, parallels=(2,))
    assert options_of(gpu_session)["device_id"] == 2


def test_a_gpu_that_cannot_be_used_is_told(
    gpu_session: type[GpuSession], exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gpu_session.is_usable = False
    assert open_session(exported).get_providers() == [CPU]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "cannot use a GPU" in record.message
    assert "CUDA and cuDNN" in record.message


def test_an_export_that_differs_on_the_gpu_is_refused(
    gpu_session: type[GpuSession], model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    gpu_session.error = 1e-3
    with pytest.raises(DataError, match="differs from the trained network"):
        export_onnx(model.path, model.exporting(measured_images=0), path)
    assert not path.exists()
    assert options_of(gpu_session)["use_tf32"] == 0


@pytest.mark.parametrize("spin", [True, False])
def test_threads_spin_unless_others_need_the_cpus(exported: Path, spin: bool) -> None:
    network = Predictor(exported, spin=spin, warm_up=False).network
    assert isinstance(network, OnnxNetwork)
    options = network.session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == str(int(spin))


def test_onnxruntime_for_the_cpu_is_not_asked_for_a_gpu(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks.onnxruntime, "get_available_providers", lambda: [CPU])
    assert open_session(exported, parallels=(7,)).get_providers() == [CPU]
