"""Forward passes in half precision with torch's own fake tensors, which follow autocast's rules for GPUs."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from engine.step import ModelWithLoss
from tests.gpu_rehearsal.fake_gpu import CPU
from tests.gpu_rehearsal.trainings import SETTINGS, make_trainer
from utils.precision import BF16, FP16, Precision


# Autocast has the same rules for both formats.
@pytest.mark.parametrize(("setting", "precision"), [*((name, BF16) for name in SETTINGS), ("every triplet", FP16)])
def test_losses_are_float32_of_the_device(setting: str, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
    trainer = make_trainer(setting, CPU)
    trainer.epoch = 1
    trainer.begin_epoch()
    (batch, *_) = next(trainer.load_steps())
    images, step = batch.pixels.to(precision.dtype), torch.tensor(0)
    inputs = images, batch.labels, batch.taught, batch.extra, step, trainer.criterion.draw_parts(0)
    with FakeTensorMode() as fake:

        def on_gpu(tensor: Tensor) -> Tensor:
            return fake.from_tensor(tensor).to("cuda")

        module = ModelWithLoss(trainer.network, trainer.criterion, precision)._apply(on_gpu)
        inputs, camids = tree_map_only(Tensor, on_gpu, (inputs, batch.camids))
        # Else autocast would be off.
        for name in ("is_available", "is_bf16_supported"):
            monkeypatch.setattr(torch.cuda, name, lambda: True)
        loss, (losses, _) = module(*inputs, trainer.spectral.acts, camids)
    assert {(value.dtype, value.device.type) for value in (loss, *losses.values())} == {(torch.float32, "cuda")}
