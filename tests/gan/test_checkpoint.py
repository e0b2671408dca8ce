"""generator.pth: what is read from it, and what is said of files that do not fit."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from config.gan import GanParams
from config.params import Params
from gan.checkpoint import generator_checkpoint, load_generator, load_snapshots
from models.generator import Discriminator, Generator, build_discriminator, build_generator
from tests.gan.conftest import GAN, assert_same
from utils.checkpoint import save_checkpoint
from utils.errors import DataError, UserError

Change = Callable[[dict[str, Any]], object]
KEY = "gan_params.pretrain_snapshot_g"


def params_of(**gan: Any) -> Params:
    settings = {**GAN, "betas": (0.5, 0.9), "augmentation": (), **gan}
    return Params.model_validate({"gan_params": settings})


def make_nets(options: GanParams, condition_dim: int = 0, seed: int = 2) -> tuple[Generator, Discriminator]:
    torch.manual_seed(seed)
    return build_generator(options, condition_dim), build_discriminator(options, condition_dim)


def write(folder: Path, condition_dim: int = 0, change: Change = lambda _: 0) -> tuple[Generator, Discriminator]:
    """Write a generator.pth with a change of its content; returns its networks."""
    params = params_of()
    nets = make_nets(params.gan_params, condition_dim)
    save_checkpoint(folder / "generator.pth", generator_checkpoint(*nets, params, [3, 5], {"fid": 1.5}))
    raw = torch.load(folder / "generator.pth", weights_only=True)
    change(raw)
    torch.save(raw, folder / "generator.pth")
    return nets


@pytest.mark.parametrize("condition_dim", [0, 9])
def test_a_generator_is_loaded_from_its_file_or_its_folder(tmp_path: Path, condition_dim: int) -> None:
    # The discriminator is not needed.
    generator, _ = write(tmp_path, condition_dim, lambda raw: raw["model"].popitem())
    for path in (tmp_path, tmp_path / "generator.pth"):
        trained = load_generator(path, KEY)
        assert trained.params == params_of()
        assert trained.generator.condition_dim == condition_dim
        assert not trained.generator.training
        assert not any(parameter.requires_grad for parameter in trained.generator.parameters())
        noise, condition = torch.randn(3, 6), torch.randn(3, condition_dim) if condition_dim else None
        assert torch.equal(trained.generator(noise, condition), generator.eval()(noise, condition))


def test_a_checkpoint_is_a_copy() -> None:
    params = params_of()
    nets = make_nets(params.gan_params)
    checkpoint = generator_checkpoint(*nets, params, [3], {})
    before = {name: value.clone() for name, value in checkpoint.model.items()}
    with torch.no_grad():
        for net in nets:
            for tensor in net.state_dict().values():
                tensor.add_(1)
    assert_same(checkpoint.model, before)
    assert {name.partition(".")[0] for name in before} == {"generator", "discriminator"}


def nan(raw: dict[str, Any]) -> None:
    raw["model"]["generator.first.weight"][0, 0] = math.nan


def with_weight(name: str, value: Tensor) -> Callable[[dict[str, Any]], object]:
    return lambda raw: raw["model"].update({name: value})


def with_option(**options: Any) -> Callable[[dict[str, Any]], object]:
    return lambda raw: raw["params"]["gan_params"].update(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan, r"generator\.pth: first\.weight: hold NaN or infinity"),
        (lambda raw: raw["model"].pop("generator.last.bias"), "the weights do not fit the params"),
        (with_weight("generator.more", torch.ones(1)), "the weights do not fit the params"),
        (with_weight("generator.condition.weight", torch.ones(())), "the weights do not fit the params"),
        (with_weight("generator.condition.weight", torch.ones(6, 4)), "the weights do not fit the params"),
        (with_option(ngf=5), "the weights do not fit the params"),
        (with_option(img_h=128), "the weights do not fit the params"),
        (with_option(input_dim=7), "the weights do not fit the params"),
        (with_option(img_h=100), r"generator\.pth: gan_params\.img_h: "),
        (lambda raw: raw.pop("labels"), "not a checkpoint of this framework"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    write(tmp_path, change=change)
    with pytest.raises(UserError, match=message):
        load_generator(tmp_path, KEY)


def test_files_without_a_generator_are_refused(tmp_path: Path, reid_checkpoint: Path) -> None:
    with pytest.raises(DataError, match=f"{KEY}: .*model_best.pth: holds no person generator"):
        load_generator(reid_checkpoint, KEY)
    for path in (tmp_path / "gone", tmp_path, reid_checkpoint.parent):
        with pytest.raises(DataError, match=f"{KEY}: {path}.*: no such file; train a generator first"):
            load_generator(path, KEY)


@pytest.mark.parametrize("is_bare", [False, True])
def test_networks_start_from_the_snapshots_that_are_named(tmp_path: Path, is_bare: bool) -> None:
    trained = write(tmp_path)
    paths = [tmp_path, tmp_path / "generator.pth"]
    if is_bare:
        paths = [tmp_path / "generator_only.pth", tmp_path / "discriminator_only.pth"]
        for path, net in zip(paths, trained, strict=True):
            torch.save(net.state_dict(), path)
    both = dict(zip(("pretrain_snapshot_g", "pretrain_snapshot_d"), map(str, paths), strict=True))
    for snapshots in ({}, {"pretrain_snapshot_g": both["pretrain_snapshot_g"]}, both):
        options = params_of(**snapshots).gan_params
        nets, untouched = make_nets(options, seed=9), make_nets(options, seed=9)
        load_snapshots(*nets, options)
        expected = [*trained[: len(snapshots)], *untouched[len(snapshots) :]]
        for net, other in zip(nets, expected, strict=True):
            assert_same(net.state_dict(), other.state_dict())
            assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("gan", "condition_dim"),
    [({"img_h": 128}, 0), ({"ngf": 5}, 0), ({"input_dim": 7}, 0), ({"spectral_norm": False}, 0), ({}, 9)],
)
def test_snapshots_of_other_networks_are_refused(tmp_path: Path, gan: dict[str, Any], condition_dim: int) -> None:
    write(tmp_path)
    key = "pretrain_snapshot_d" if "spectral_norm" in gan else "pretrain_snapshot_g"
    options = params_of(**gan, **{key: str(tmp_path)}).gan_params
    with pytest.raises(DataError, match=rf"{key}: .*not the weights of such a network .* the same img_h, input_dim"):
        load_snapshots(*make_nets(options, condition_dim), options)


def test_snapshots_of_a_reid_network_or_of_nan_are_refused(tmp_path: Path, reid_checkpoint: Path) -> None:
    write(tmp_path, change=nan)
    for path, message in ((reid_checkpoint, "not the weights of such a network"), (tmp_path, "hold NaN or infinity")):
        options = params_of(pretrain_snapshot_g=str(path)).gan_params
        with pytest.raises(DataError, match=message):
            load_snapshots(*make_nets(options), options)
