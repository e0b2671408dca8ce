"""The choice of a device, and what is said where there is none; GPUs and drivers are stand-ins."""

import warnings
from pathlib import Path

import pytest
import torch

import utils.device as module
from utils.device import choose_device, describe_device, make_ready
from utils.errors import ParamsError, UserError
from utils.process import LOCAL_RANK, LOCAL_WORLD_SIZE, RANK, WORLD_SIZE

CPU = torch.device("cpu")
OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: ..."
)


def have_gpus(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: number > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: number)


def have_driver(monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    """As torch behaves with a driver that it cannot use."""

    def is_available() -> bool:
        warnings.warn(f"CUDA initialization: {problem}", stacklevel=2)
        return False

    def init() -> None:
        raise RuntimeError(problem)

    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.is_available", is_available)
    monkeypatch.setattr("torch.cuda.init", init)


def test_a_process_computes_on_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    have_gpus(monkeypatch, 3)
    assert choose_device(()) == torch.device("cuda", 0)
    assert choose_device([2]) == torch.device("cuda", 2)
    for name, value in ((RANK, "1"), (WORLD_SIZE, "2"), (LOCAL_RANK, "1"), (LOCAL_WORLD_SIZE, "2")):
        monkeypatch.setenv(name, value)
    assert choose_device(()) == torch.device("cuda", 1)
    assert choose_device([2, 0]) == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("number", "parallels", "message"),
    [(0, [1], "no GPU 1; this machine has 0"), (2, [0, 2, 5], "no GPU 2, 5; .*has 2")],
)
def test_a_gpu_that_is_not_there_is_named(
    number: int, parallels: list[int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_gpus(monkeypatch, number)
    with pytest.raises(ParamsError, match=f"parallels: there is {message}"):
        choose_device(parallels)


def test_a_driver_that_is_too_old_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    have_driver(monkeypatch, OLD_DRIVER)
    assert choose_device(()) == CPU
    _, warning = describe_device(CPU).splitlines()
    assert warning.startswith("warning: torch cannot use the GPUs of this machine: The NVIDIA driver on your system")
    assert "(found version 11040); update the driver, or install a torch built for it" in warning
    assert "CUDA 13.0" in warning
    with pytest.raises(ParamsError, match=r"^parallels: torch cannot use .* too old \(found version 11040\); update"):
        choose_device([0])


@pytest.mark.parametrize(
    "reason",
    ["Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", "No CUDA GPUs are available"],
)
def test_a_machine_without_a_visible_gpu_needs_no_advice(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    have_driver(monkeypatch, reason)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert len(describe_device(CPU).splitlines()) == 1
    with pytest.raises(ParamsError, match="there is no GPU 0; this machine has 0"):
        choose_device([0])


def test_a_visible_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    have_driver(monkeypatch, "No CUDA GPUs are available")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "warning: CUDA_VISIBLE_DEVICES=7 names no GPU" in describe_device(CPU)
    with pytest.raises(ParamsError, match="parallels: CUDA_VISIBLE_DEVICES=7 names no GPU"):
        choose_device([0])


@pytest.mark.parametrize("has_driver", [True, False])
def test_a_torch_without_cuda_is_told_beside_a_driver(
    has_driver: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_gpus(monkeypatch, 0)
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr(module, "NVIDIA_DRIVER", tmp_path if has_driver else tmp_path / "version")
    assert ("without CUDA; install a torch built for it" in describe_device(CPU)) == has_driver
    with pytest.raises(ParamsError, match="built without CUDA" if has_driver else "this machine has 0"):
        choose_device([0])


def test_a_gpu_without_any_memory_left_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: torch.device) -> None:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later.")

    monkeypatch.setattr("torch.cuda.set_device", full)
    with pytest.raises(UserError, match=r"starting on GPU 1: CUDA error: out of memory\n.*nvidia-smi"):
        make_ready(torch.device("cuda", 1))
