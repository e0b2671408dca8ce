"""Tests that need a GPU. Most also run without one, on the CPU or on the fake GPU of tests/gpu_rehearsal, so that they
are right before there is one.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import Script
from tests.gan.conftest import Bench

# cuBLAS reads it at its first use, which is later than this; deterministic products need it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GPU_ONLY = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # Those of the compiler and of CUDA's libraries depend on the machine, and say nothing about what is tested.
    pytest.mark.filterwarnings("default"),
]
GPU = pytest.param(CUDA, id="gpu", marks=GPU_ONLY)
BOTH = pytest.mark.parametrize("device", [pytest.param(CPU, id="cpu"), GPU], indirect=True)
"""Runs a test on the CPU, too."""


@pytest.fixture(params=[GPU])
def device(request: pytest.FixtureRequest) -> torch.device:
    return request.param


@contextmanager
def never_waits(device: torch.device) -> Iterator[None]:
    """An operation that waits for the GPU within this context raises an error. What is used for the first time may."""
    if device.type == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def compiler(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forgets what other tests compiled. On the CPU it traces, but writes no kernels, which would take minutes."""
    if device.type == "cpu":
        real = nn.Module.compile

        def trace(module: nn.Module, *_: Any, **options: Any) -> None:
            real(module, backend="eager", dynamic=options.get("dynamic"))

        monkeypatch.setattr(nn.Module, "compile", trace)
        monkeypatch.setattr("utils.precision._missing_for_compilation", lambda _: ())
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class GpuScript(Script):
    """An entry script that sees the GPUs of this machine; warnings are none of its errors."""

    def command(self, script: str, *arguments: str) -> list[str]:
        python, _, _, *rest = super().command(script, *arguments)
        return [python, *rest]

    def environment(self) -> dict[str, str]:
        # A script sets this itself.
        return {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}


@pytest.fixture
def script(device: torch.device, tmp_path: Path) -> Script:
    # Preloaded processes are started with GPUs hidden.
    return Script(tmp_path) if device.type == "cpu" else GpuScript(tmp_path, preloaded=False)


@pytest.fixture
def bench(device: torch.device, tmp_path: Path, make_market: Callable[[Path], Path]) -> Bench:
    make_market(tmp_path / "market")
    return Bench(tmp_path, device)
