"""Generator and discriminator on a GPU: without waiting for it, and the same bits again."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gan.steps import GanStepper, RealBatch
from losses.loss import Losses
from models.generator import build_discriminator, build_generator
from tests.conftest import Script
from tests.gan.conftest import GAN, REID
from tests.gan.test_steps import make_batch, options_of, same, tensors_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

EVERYTHING: dict[str, Any] = {
    "spectral_norm": True, "d_update_freq": 2, "penalty_every": 1,
    "augmentation": ("colour", "translation", "cutout"),
}  # fmt: skip


def make_stepper(**changes: Any) -> GanStepper:
    options = options_of(**EVERYTHING | changes)
    torch.manual_seed(0)
    generator, discriminator = build_generator(options, 5).cuda(), build_discriminator(options, 5).cuda()
    for net in (generator, discriminator):
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return GanStepper(generator, discriminator, options, 7)


def batches_of(step: int) -> list[RealBatch]:
    found = []
    for number in (2 * step, 2 * step + 1):
        pictures, conditions = make_batch(number, 5)
        assert conditions is not None
        found.append(RealBatch(pictures.cuda().contiguous(memory_format=torch.channels_last), conditions.cuda()))
    return found


@pytest.mark.parametrize("loss", ["hinge", "non_saturating", "wgan"])
@pytest.mark.parametrize("penalty", ["r1", "wgan_gp"])
def test_no_step_waits_for_the_device(loss: str, penalty: str) -> None:
    stepper, losses = make_stepper(loss=loss, penalty=penalty), list[Losses]()
    batches = [batches_of(step) for step in range(3)]
    try:
        for step, batch in enumerate(batches):  # the first ones set up libraries, which may wait
            torch.cuda.set_sync_debug_mode("error" if step == 2 else "default")
            losses.append(stepper.step(batch, step))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for found in losses:
        assert torch.stack([*found.losses.values(), *found.metrics.values()]).isfinite().all()
    assert all(tensor.isfinite().all() for tensor in tensors_of(stepper.state_dict()))


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As `deterministic` true does for a run."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("penalty", ["r1", "wgan_gp"])
def test_from_a_state_the_next_steps_are_the_same_bit_for_bit(penalty: str) -> None:
    whole, again = (make_stepper(penalty=penalty) for _ in range(2))
    for step in range(2):
        whole.step(batches_of(step), step)
    state = {name: _on_cpu(value) for name, value in whole.state_dict().items()}
    again.load_state_dict(state)
    for step in range(2, 5):
        found, expected = (stepper.step(batches_of(step), step) for stepper in (again, whole))
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
    process = script.run("train.py", "--operation", "train_gan", "--sub_working_dir", "gan")
    assert process.returncode == 0, process.stderr
    assert "computing on GPU 0" in process.stderr
    process = script.run("train.py", "--operation", "sample_gan", "--sub_working_dir", "gan", "--out", "pictures")
    assert process.returncode == 0, process.stderr
    assert len(list((script.folder / "pictures").glob("0*.png"))) == 64
    for name, gan in (("mixed", {"pretrain_snapshot_g": "runs/gan"}), ("along", {"adv_train": True})):
        settings: dict[str, Any] = {**REID, "epoch": 1, "gan_params": {**GAN, "mix_ratio": 0.5, **gan}}
        script.write_params(**settings)
        process = script.run("train.py", "--operation", "start_train", "--sub_working_dir", name)
        assert process.returncode == 0, process.stderr
        (record,) = [
            json.loads(line) for line in (script.folder / f"runs/{name}/metrics.jsonl").read_text().split("\n")[:-1]
        ]
        assert record["losses"]["outliers"] > 0
