"""Generator and discriminator on a GPU: without waiting for it, and the same bits again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gan.steps import GanStepper, RealBatch
from models.generator import build_discriminator, build_generator
from tests.conftest import Script
from tests.gan.conftest import GAN, REID
from tests.gan.test_steps import make_batch, options_of, same, tensors_of
from tests.gpu.conftest import BOTH, never_waits
from tests.runs import records_of

EVERYTHING: dict[str, Any] = {
    "spectral_norm": True, "d_update_freq": 2, "penalty_every": 1,
    "augmentation": ("colour", "translation", "cutout"),
}  # fmt: skip


def make_stepper(device: torch.device, **changes: Any) -> GanStepper:
    options = options_of(**EVERYTHING | changes)
    torch.manual_seed(0)
    generator, discriminator = build_generator(options, 5).to(device), build_discriminator(options, 5).to(device)
    for net in (generator, discriminator):
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return GanStepper(generator, discriminator, options, 7)


def batches_of(step: int, device: torch.device) -> list[RealBatch]:
    found = []
    for number in (2 * step, 2 * step + 1):
        pictures, conditions = make_batch(number, 5)
        assert conditions is not None
        found.append(
            RealBatch(pictures.to(device).contiguous(memory_format=torch.channels_last), conditions.to(device))
        )
    return found


@pytest.mark.parametrize("loss", ["hinge", "non_saturating", "wgan"])
@pytest.mark.parametrize("penalty", ["r1", "wgan_gp"])
def test_no_step_waits_for_the_device(loss: str, penalty: str, device: torch.device) -> None:
    stepper = make_stepper(device, loss=loss, penalty=penalty)
    batches = [batches_of(step, device) for step in range(2)]
    losses = [stepper.step(batches[0], 0)]
    with never_waits(device):
        losses.append(stepper.step(batches[1], 1))
    for found in losses:
        assert torch.stack([*found.losses.values(), *found.metrics.values()]).isfinite().all()
    assert all(tensor.isfinite().all() for tensor in tensors_of(stepper.state_dict()))


@pytest.fixture
def _deterministic() -> Iterator[None]:
    """As `deterministic` true does for a run."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@BOTH
@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("penalty", ["r1", "wgan_gp"])
def test_from_a_state_the_next_steps_are_the_same_bit_for_bit(penalty: str, device: torch.device) -> None:
    whole, again = (make_stepper(device, penalty=penalty) for _ in range(2))
    for step in range(2):
        whole.step(batches_of(step, device), step)
    state = {name: _on_cpu(value) for name, value in whole.state_dict().items()}
    again.load_state_dict(state)
    for step in range(2, 5):
        found, expected = (stepper.step(batches_of(step, device), step) for stepper in (again, whole))
        assert same(tensors_of(found.losses), tensors_of(expected.losses))
    assert same(tensors_of(again.state_dict()), tensors_of(whole.state_dict()))


def _on_cpu(value: Any) -> Any:
    """As a saved state comes from the disk."""
    if isinstance(value, torch.Tensor):
        return value.cpu().clone()
    if isinstance(value, dict):
        return {name: _on_cpu(entry) for name, entry in value.items()}
    return [_on_cpu(entry) for entry in value] if isinstance(value, list) else value


def test_the_scripts_train_sample_and_mix_in_on_the_gpu(script: Script, make_market: Callable[[Path], Path]) -> None:
    make_market(script.folder / "market")
    script.write_params(gan_params=GAN)
    process = script.succeed("train.py", "--operation", "train_gan", "--sub_working_dir", "gan")
    assert "computing on GPU 0" in process.stderr
    script.succeed("train.py", "--operation", "sample_gan", "--sub_working_dir", "gan", "--out", "pictures")
    assert len(list((script.folder / "pictures").glob("0*.png"))) == 64
    for name, gan in (("mixed", {"pretrain_snapshot_g": "runs/gan"}), ("along", {"adv_train": True})):
        settings: dict[str, Any] = {**REID, "epoch": 1, "gan_params": {**GAN, "mix_ratio": 0.5, **gan}}
        script.write_params(**settings)
        script.succeed("train.py", "--operation", "start_train", "--sub_working_dir", name)
        (record,) = records_of(script.folder / "runs" / name)
        assert record["losses"]["outliers"] > 0
