from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import data.cache.fill
import data.eval_loader
import data.loader
from models.backbones import timm_swin
from models.backbones.osnet import PLACES
from models.backbones.registry import BACKBONES
from models.backbones.resnet import DEPTHS
from tests.gpu_rehearsal.fake_gpu import FakeGenerator, FakeGpu
from tests.gpu_rehearsal.trainings import TINY_ENTRY


@pytest.fixture(autouse=True)
def _small_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    """resnet_18 is another; resnet_34, OSNet-AIN and Swin Transformers have few blocks."""
    monkeypatch.setitem(BACKBONES, "resnet_18", TINY_ENTRY)
    monkeypatch.setitem(DEPTHS, "resnet_34", ("Bottleneck", (1, 1, 1, 1)))
    monkeypatch.setitem(PLACES, "ain", (("residual",), ("none",), ("residual",)))
    # The second block of the first stage shifts its windows.
    small = partial(timm_swin.create_model, depths=(2, 1), embed_dim=8, num_heads=(1, 2))
    monkeypatch.setattr(timm_swin, "create_model", small)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """Device "cuda" is a fake GPU, and the only one of this machine."""
    with FakeGpu() as fake:
        monkeypatch.setattr(torch, "Generator", FakeGenerator)
        monkeypatch.setattr(torch.cuda, "default_generators", (torch.default_generator,))
        answers = {
            "is_available": True,
            "device_count": 1,
            "current_device": 0,
            "is_current_stream_capturing": False,
            "set_device": None,
            "mem_get_info": (2**36, 2**36),
            "get_device_capability": (9, 0),
            "get_device_properties": SimpleNamespace(name="fake", total_memory=2**36),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: fake.wait("synchronize"))
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(fake, "forbidden", mode == "error"))
        # Set by a deterministic training.
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
        # Modules that move to it get new parameters; the old ones' `data` cannot be set.
        monkeypatch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        # Its context belongs to this thread.
        for module in (data.loader, data.eval_loader, data.cache.fill):
            monkeypatch.setattr(module, "read_ahead", lambda read, items: (read(item) for item in items))
        yield fake
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def device(gpu: FakeGpu) -> torch.device:
    return gpu.device
