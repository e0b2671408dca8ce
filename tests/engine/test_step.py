"""One update: against the same written out, in other precisions, over several batches and over several processes."""

from typing import Literal, NamedTuple

import pytest
import torch
from torch import Tensor

from engine.batches import ExtraBatch, TrainBatch
from engine.optim import set_train_mode
from engine.step import ModelWithLoss, Stepper
from losses.criterion import build_criterion
from losses.generated import GeneratedWeights
from losses.loss import Losses
from losses.options import LossOptions
from models.network import build_network
from models.options import ModelParams
from models.sync_bn import synchronise_batch_norm
from tests.processes import run_in_processes
from utils.distributed import this_process
from utils.precision import BF16, FP32, Precision

CPU = torch.device("cpu")
MODEL = ModelParams(model="resnet_18", last_conv_stride=2, feature_dim=16, pcb_n_parts=2, feature_global_dim=8)
LOSSES = LossOptions(tri_loss_margin="soft_margin", tri_loss_on=("global", "parts", "concat"), gather_embeddings=True)
IDENTITIES, STEPS = 8, 20


def make_stepper(
    precision: Precision = FP32,
    dtype: torch.dtype = torch.float32,
    compile_mode: Literal["on", "off"] = "off",
    max_norm: float = 0.0,
    ema_decay: float = 0.0,
    model: ModelParams = MODEL,
    losses: LossOptions = LOSSES,
) -> Stepper:
    torch.manual_seed(0)
    network = build_network(model, IDENTITIES).to(dtype)
    synchronise_batch_norm(network)
    criterion = build_criterion(losses)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    return Stepper(network, criterion, optimizer, precision, compile_mode, max_norm, ema_decay)


def make_batch(seed: int, identities: int = 4) -> TrainBatch:
    labels = torch.arange(identities).repeat_interleave(2)
    pixels = torch.randn(len(labels), 3, 64, 32, generator=torch.Generator().manual_seed(seed))
    return TrainBatch(pixels, labels, None, None, pixels, [], 0)


def take(stepper: Stepper, batches: list[TrainBatch], step: int = 0) -> list[Losses]:
    """A whole step; every number of it must be finite."""
    losses, finite, silent = stepper.backward(batches, step)
    assert finite.shape == ()
    assert finite
    assert silent == {}
    stepper.update(finite)
    return losses


def gradients(module: torch.nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


def test_a_step_is_one_of_the_optimizer_on_the_sum_of_the_losses() -> None:
    stepper, plain = make_stepper(), make_stepper()
    batch = make_batch(1)
    (losses,) = take(stepper, [batch])
    output = plain.network(batch.pixels)
    terms = build_criterion(LOSSES)(output, batch.labels).losses
    assert losses.losses.keys() == terms.keys()
    assert not any(term.requires_grad for term in losses.losses.values())
    plain.optimizer.zero_grad()
    sum(terms.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    plain.optimizer.step()
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(stepper.network.state_dict()[name], value)
    right = [(branch.scores.logits.argmax(-1) == batch.labels).float() for branch in output.values()]
    assert losses.metrics["accuracy"] == pytest.approx(torch.cat([each.flatten() for each in right]).mean().item())


@pytest.mark.parametrize("number", [1, 6])
def test_generated_images_join_the_real_ones_for_the_forward_pass_alone(number: int) -> None:
    torch.manual_seed(0)
    criterion = build_criterion(LOSSES, generated=GeneratedWeights(number / 8))
    module = ModelWithLoss(build_network(MODEL, IDENTITIES), criterion, FP32)
    batch = make_batch(1)
    pixels = torch.randn(number, 3, 64, 32, generator=torch.Generator().manual_seed(2))
    loss, losses = module(batch.pixels, batch.labels, None, ExtraBatch(pixels), torch.tensor(0), None, False)
    # In training mode the network normalises over all images it is shown.
    output = module.network(torch.cat([batch.pixels, pixels]))
    logits = torch.cat([branch.scores.logits for branch in output.values()])
    outliers = sum(-part[8:].log_softmax(1).mean(1).sum().item() for part in logits) / 8
    assert losses.losses["outliers"].item() == pytest.approx(outliers, rel=1e-4)
    softmax = sum(torch.nn.functional.cross_entropy(part[:8], batch.labels).item() for part in logits)
    found = sum(term.item() for name, term in losses.losses.items() if name.startswith("softmax"))
    assert found == pytest.approx(softmax, rel=1e-4)
    assert loss.item() == pytest.approx(sum(term.item() for term in losses.losses.values()), rel=1e-5)
    right = (logits[:, :8].argmax(-1) == batch.labels).float().mean().item()
    assert losses.metrics["accuracy"].item() == pytest.approx(right)


def test_several_batches_are_one_step_on_the_mean_of_their_losses() -> None:
    stepper, plain = make_stepper(), make_stepper()
    batches = [make_batch(seed) for seed in (1, 2, 3)]
    found = take(stepper, batches)
    assert len(found) == 3
    averaged: list[Tensor] = []
    for batch in batches:
        plain.module.zero_grad()
        loss, _ = plain.module(batch.pixels, batch.labels, None, None, torch.tensor(0), None, False)
        loss.backward()
        each = gradients(plain.module)
        averaged = [a + b for a, b in zip(averaged, each, strict=True)] if averaged else each
    for mine, mean in zip(gradients(stepper.module), averaged, strict=True):
        # The order of the additions is another one, and rounding grows on the way back through twenty layers.
        assert (mine - mean / 3).norm() <= 1e-3 * (mean / 3).norm()


@pytest.mark.parametrize("has_scale", [False, True])
@pytest.mark.parametrize("share", [0.5, 2.0])
def test_larger_gradients_are_scaled_down_to_the_norm(has_scale: bool, share: float) -> None:
    """Those of several batches together, without the scale that float16 has."""
    plain = make_stepper()
    batches = [make_batch(seed) for seed in (1, 2)]
    plain.backward(batches, 0)
    before = gradients(plain.network)
    norm = torch.sqrt(sum((gradient.double().square().sum() for gradient in before), torch.zeros(())))
    clipped = make_stepper(max_norm=share * norm.item())
    clipped.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=has_scale)  # pyright: ignore[reportPrivateImportUsage]
    weights = [parameter.detach().clone() for parameter in clipped.network.parameters()]
    take(clipped, batches)
    factor = min(1.0, share)
    for gradient, expected in zip(gradients(clipped.network), before, strict=True):
        torch.testing.assert_close(gradient, factor * expected, rtol=1e-4, atol=1e-7)
    for parameter, weight, gradient in zip(clipped.network.parameters(), weights, before, strict=True):
        expected = weight - 0.01 * (factor * gradient + 5e-4 * weight)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-6)


def test_a_frozen_backbone_stays_as_it_is_until_it_is_trained_again() -> None:
    stepper = make_stepper()
    stepper.freeze_backbone(True)
    before = {name: value.clone() for name, value in stepper.network.state_dict().items()}
    for step in range(2):
        set_train_mode(stepper.network, fine_tune=False)  # as at the begin of an epoch
        take(stepper, [make_batch(step)], step)
    changed = {name for name, value in stepper.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("branches.")}
    assert all(parameter.grad is None for parameter in stepper.network.backbone.parameters())
    stepper.freeze_backbone(False)
    take(stepper, [make_batch(2)], 2)
    assert not any(torch.equal(value, before[name]) for name, value in stepper.network.state_dict().items())


def test_a_skipped_step_leaves_the_average_as_it_was() -> None:
    stepper = make_stepper(ema_decay=0.9)
    take(stepper, [make_batch(0)])
    assert stepper.average is not None
    before = {name: value.clone() for name, value in stepper.average.state_dict().items()}
    batch = make_batch(1)
    batch.pixels[0, 0, 0, 0] = torch.nan
    stepper.update(stepper.backward([batch], 1).finite)
    assert all(torch.equal(value, before[name]) for name, value in stepper.average.state_dict().items())
    take(stepper, [make_batch(2)], 2)
    assert stepper.average.updates == 2
    assert not torch.equal(
        stepper.average.state_dict()["network.backbone.conv1.weight"], before["network.backbone.conv1.weight"]
    )


def test_in_bf16_the_network_computes_in_it_while_weights_and_losses_stay_float32() -> None:
    stepper, exact = make_stepper(BF16), make_stepper()
    seen: list[torch.dtype] = []
    last_stage = stepper.network.backbone.get_submodule("layer4")
    last_stage.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    (losses,) = take(stepper, [make_batch(1)])
    (expected,) = take(exact, [make_batch(1)])
    assert seen == [torch.bfloat16]
    assert {term.dtype for term in losses.losses.values()} == {torch.float32}
    assert {parameter.dtype for parameter in stepper.module.parameters()} == {torch.float32}
    for name, term in losses.losses.items():
        assert term.item() == pytest.approx(expected.losses[name].item(), rel=0.1), name


class Trained(NamedTuple):
    losses: list[dict[str, float]]
    gradients: list[Tensor]
    """Of the first step."""
    state: dict[str, Tensor]


def train(batch_of_all: int) -> Trained:
    """Twenty steps on this process's part of each batch, clipped and averaged, in the third and the fourth without the
    backbone.

    In float64: in float32 a triplet chosen otherwise, for a difference in the last digit, makes for other weights.
    """
    dist, stepper = this_process(), make_stepper(dtype=torch.float64, max_norm=5.0, ema_decay=0.8)
    losses: list[dict[str, float]] = []
    first_gradients: list[Tensor] = []
    for step in range(STEPS):
        whole = make_batch(step, batch_of_all)
        part = dist.share(len(whole.labels))
        batch = whole._replace(pixels=whole.pixels[part].double(), labels=whole.labels[part])
        stepper.freeze_backbone(step in (2, 3))
        (found,) = take(stepper, [batch], step)
        losses.append({name: term.item() for name, term in found.losses.items()})
        first_gradients = first_gradients or gradients(stepper.network)
    state = {**stepper.network.state_dict(), **stepper.evaluated.state_dict(prefix="average.")}
    return Trained(losses, first_gradients, state)


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_double_batch() -> None:
    first, second = run_in_processes(train, 2, IDENTITIES)
    alone = train(IDENTITIES)
    for mine, other, gradient in zip(first.gradients, second.gradients, alone.gradients, strict=True):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, gradient, rtol=1e-9, atol=1e-9)
    for step, losses in enumerate(alone.losses):
        for name, loss in losses.items():
            mine, other = first.losses[step][name], second.losses[step][name]
            # Classification is averaged over a process's own images; the triplet losses see those of all.
            # Rounding errors grow about tenfold in each of the first steps.
            close = 1e-9 if step < 3 else 1e-5
            assert (mine + other) / 2 == pytest.approx(loss, abs=close), (step, name)
            if name.startswith("triplet"):
                assert mine == pytest.approx(other, abs=1e-9)
    for name, value in first.state.items():
        assert torch.equal(value, second.state[name]), name
        torch.testing.assert_close(value, alone.state[name], rtol=1e-5, atol=1e-6)


def step_before_the_neck() -> bool:
    """Two steps, in which no loss sees what the neck makes of the stripes."""
    stepper = make_stepper(model=MODEL.model_copy(update={"classifier_of": "features"}), losses=LossOptions())
    for step in range(2):
        take(stepper, [make_batch(step + this_process().rank)], step)
    return True


def test_several_processes_train_a_network_whose_neck_no_loss_sees() -> None:
    assert run_in_processes(step_before_the_neck, 2) == [True, True]


@pytest.mark.slow
def test_compiled_steps_are_the_plain_ones(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    plain, compiled = make_stepper(), make_stepper(compile_mode="on")
    for step in range(2):
        (expected,) = take(plain, [make_batch(step)], step)
        (found,) = take(compiled, [make_batch(step)], step)
        for name, term in expected.losses.items():
            assert found.losses[name].item() == pytest.approx(term.item(), rel=1e-2), name
    assert caplog.text.count("the first step, with the compilation of the network") == 1
    assert plain.network.state_dict().keys() == compiled.network.state_dict().keys()
