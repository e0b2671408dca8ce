"""generator.pth: what can be read from one, and what is said of files that are none."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from config.params import Params
from gan.checkpoint import (
    OF_DISCRIMINATOR,
    OF_GENERATOR,
    TrainedGenerator,
    checkpoint_of,
    load_generator,
    start_from,
)
from gan.steps import GanStepper
from models.generator import build_discriminator, build_generator
from tests.gan.conftest import GAN, assert_same
from utils.checkpoint import save_checkpoint
from utils.errors import DataError, UserError

KEY = "gan_params.pretrain_snapshot_g"


def params_of(**gan: Any) -> Params:
    settings = {**GAN, "betas": (0.5, 0.9), "augmentation": (), **gan}
    return Params.model_validate({"gan_params": settings})


def make_stepper(params: Params, condition_dim: int = 0) -> GanStepper:
    torch.manual_seed(2)
    gan = params.gan_params
    stepper = GanStepper(build_generator(gan, condition_dim), build_discriminator(gan, condition_dim), gan, 0)
    with torch.no_grad():
        # Else the averaged generator could not be told from the other.
        for parameter in stepper.average.parameters():
            parameter.add_(0.1)
    return stepper


def write(path: Path, condition_dim: int = 0, change: Callable[[dict[str, Any]], object] = lambda _: 0) -> GanStepper:
    params = params_of()
    stepper = make_stepper(params, condition_dim)
    checkpoint = checkpoint_of(stepper, params, [3, 5], {"fid": 1.5})
    save_checkpoint(path, checkpoint)
    raw = torch.load(path, weights_only=True)
    change(raw)
    torch.save(raw, path)
    return stepper


@pytest.mark.parametrize("condition_dim", [0, 9])
def test_a_generator_comes_back_from_its_file_and_from_its_folder(tmp_path: Path, condition_dim: int) -> None:
    stepper = write(tmp_path / "generator.pth", condition_dim)
    for path in (tmp_path, tmp_path / "generator.pth"):
        trained = load_generator(path, KEY)
        assert isinstance(trained, TrainedGenerator)
        assert trained.params == params_of()
        assert trained.generator.condition_dim == condition_dim
        assert not trained.generator.training
        assert not any(parameter.requires_grad for parameter in trained.generator.parameters())
        noise, whom = torch.randn(3, 6), torch.randn(3, condition_dim) if condition_dim else None
        assert torch.equal(trained.generator(noise, whom), stepper.average(noise, whom))


def test_a_checkpoint_is_a_copy(tmp_path: Path) -> None:
    params = params_of()
    stepper = make_stepper(params)
    checkpoint = checkpoint_of(stepper, params, [3], {})
    before = {name: value.clone() for name, value in checkpoint.model.items()}
    with torch.no_grad():
        for net in (stepper.average, stepper.discriminator):
            for tensor in net.state_dict().values():
                tensor.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.model.items())
    assert {name.partition(".")[0] for name in before} == {"generator", "discriminator"}


def last_of_generator(raw: dict[str, Any]) -> str:
    return [name for name in raw["model"] if name.startswith(OF_GENERATOR)][-1]


def nan(raw: dict[str, Any]) -> None:
    raw["model"]["generator.first.weight"][0, 0] = math.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan, r"generator\.pth: first\.weight: hold NaN or infinity"),
        (lambda raw: raw["model"].popitem(), None),  # of the discriminator, which nobody asks for
        (lambda raw: raw["model"].pop(last_of_generator(raw)), "the weights do not fit the params beside them"),
        (lambda raw: raw["model"].update({"generator.more": torch.ones(1)}), "do not fit the params beside them"),
        (lambda raw: raw["params"]["gan_params"].update(ngf=5), "do not fit the params beside them"),
        (lambda raw: raw["params"]["gan_params"].update(img_h=128), "do not fit the params beside them"),
        (lambda raw: raw["params"]["gan_params"].update(input_dim=7), "do not fit the params beside them"),
        (lambda raw: raw["params"]["gan_params"].update(img_h=100), r"generator\.pth: gan_params\.img_h: "),
        (lambda raw: raw["model"].update({"generator.condition.weight": torch.ones(())}), "do not fit the params"),
        (lambda raw: raw["model"].update({"generator.condition.weight": torch.ones(6, 4)}), "do not fit the params"),
        (lambda raw: raw.pop("labels"), "not a checkpoint of this framework"),
    ],
)
def test_a_file_that_does_not_fit_is_told(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str | None
) -> None:
    write(tmp_path / "generator.pth", change=change)
    if message is None:
        assert load_generator(tmp_path, KEY)
        return
    with pytest.raises(UserError, match=message):
        load_generator(tmp_path, KEY)


def test_a_reid_checkpoint_is_no_generator(reid_checkpoint: Path) -> None:
    with pytest.raises(DataError, match=f"{KEY}: .*model_best.pth: holds no person generator; name a file that train_"):
        load_generator(reid_checkpoint, KEY)


def test_a_missing_file_is_told_with_what_to_do(tmp_path: Path, reid_checkpoint: Path) -> None:
    for path in (tmp_path / "gone", tmp_path, tmp_path / "gone.pth", reid_checkpoint.parent):
        with pytest.raises(DataError, match=f"{KEY}: {path}.*: no such file; train a generator first, python train.py"):
            load_generator(path, KEY)


def test_a_network_starts_from_what_a_file_holds_of_it(tmp_path: Path) -> None:
    stepper = write(tmp_path / "generator.pth")
    options = params_of().gan_params
    torch.manual_seed(9)
    generator, discriminator = build_generator(options, 0), build_discriminator(options, 0)
    start_from(generator, OF_GENERATOR, "", KEY)  # nothing is named, and nothing changes
    torch.manual_seed(9)
    assert_same(generator.state_dict(), build_generator(options, 0).state_dict())
    start_from(generator, OF_GENERATOR, str(tmp_path), KEY)
    start_from(discriminator, OF_DISCRIMINATOR, str(tmp_path / "generator.pth"), KEY)
    assert_same(generator.state_dict(), stepper.average.state_dict())
    assert_same(discriminator.state_dict(), stepper.discriminator.state_dict())
    assert all(parameter.requires_grad for parameter in generator.parameters())


def test_a_bare_state_dict_does_too(tmp_path: Path) -> None:
    options = params_of().gan_params
    torch.manual_seed(9)
    torch.save(build_generator(options, 0).state_dict(), tmp_path / "bare.pth")
    generator = build_generator(options, 0)
    start_from(generator, OF_GENERATOR, str(tmp_path / "bare.pth"), KEY)
    assert_same(generator.state_dict(), torch.load(tmp_path / "bare.pth", weights_only=True))


@pytest.mark.parametrize(
    ("gan", "condition_dim"),
    [({"img_h": 128}, 0), ({"ngf": 5}, 0), ({"input_dim": 7}, 0), ({}, 9)],
)
def test_a_network_of_another_size_is_refused(tmp_path: Path, gan: dict[str, Any], condition_dim: int) -> None:
    write(tmp_path / "generator.pth")
    net = build_generator(params_of(**gan).gan_params, condition_dim)
    with pytest.raises(DataError, match=r"not the weights of such a network .* the same img_h, input_dim"):
        start_from(net, OF_GENERATOR, str(tmp_path), KEY)


def test_a_discriminator_with_another_normalisation_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "generator.pth")
    net = build_discriminator(params_of(spectral_norm=False).gan_params, 0)
    with pytest.raises(DataError, match=r"not the weights of such a network .* spectral_norm"):
        start_from(net, OF_DISCRIMINATOR, str(tmp_path), "gan_params.pretrain_snapshot_d")


def test_nobody_starts_from_a_reid_network_or_from_nan(tmp_path: Path, reid_checkpoint: Path) -> None:
    net = build_generator(params_of().gan_params, 0)
    with pytest.raises(DataError, match=f"{KEY}: .*not the weights of such a network"):
        start_from(net, OF_GENERATOR, str(reid_checkpoint), KEY)
    write(tmp_path / "generator.pth", change=nan)
    with pytest.raises(DataError, match="hold NaN or infinity"):
        start_from(net, OF_GENERATOR, str(tmp_path), KEY)
