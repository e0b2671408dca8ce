"""The training of a generator: what it sees, what it leaves behind, and what it goes on from."""

import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from engine.gan import epoch
from engine.monitor import DivergedError
from gan.fit import begin_generator, fit_generator
from gan.steps import RealBatch
from gan.trainer import GanTraining, as_pictures, build_gan_training, read_gan_data
from losses.loss import Losses
from tests.gan.conftest import CPU, GAN, PIDS, Bench, FakeQuality, images_in, told, written
from utils.checkpoint import load_tensors, save_tensors
from utils.errors import DataError, ParamsError, UserError
from utils.interrupts import Interrupted

EVERY_STEP: dict[str, Any] = {"checkpoint": {"every_steps": 1}}


def weights_of(training: GanTraining) -> dict[str, Tensor]:
    return {
        f"{net} {name}": value
        for net in ("generator", "discriminator", "average")
        for name, value in getattr(training.adversaries, net).state_dict().items()
    }


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


@pytest.mark.parametrize(
    ("gan", "settings"),
    [
        ({}, {}),
        ({"d_update_freq": 3, "batch_size": 4, "preheat_steps": 2, "penalty": "wgan_gp", "loss": "wgan"},
         {"data_augmentation": {"mirror": False}, "data_cache": "none"}),
        ({"condition": "CHECKPOINT", "measured_by": "CHECKPOINT", "spectral_norm": False}, {}),
    ],
    ids=["on nothing", "several updates a step", "conditioned and measured"],
)  # fmt: skip
def test_every_state_leads_to_the_same_end(
    bench: Bench, reid_checkpoint: Path, gan: dict[str, Any], settings: dict[str, Any]
) -> None:
    gan = {name: str(reid_checkpoint) if value == "CHECKPOINT" else value for name, value in gan.items()}
    whole = bench.generator(gan=gan, **settings, **EVERY_STEP, log_every=3)
    states = bench.fit("whole", whole)
    steps = whole.steps_per_epoch
    assert whole.step == len(states) == 2 * steps
    assert (whole.epoch, len(whole.records)) == (2, 2)
    assert all(math.isfinite(value) for record in whole.records for value in record["losses"].values())
    # The states are from before each save: the first is that of the start.
    for step in sorted({0, 1, steps, 2 * steps - 1}):
        again = bench.generator(gan=gan, resume=True, **settings, **EVERY_STEP, log_every=3)
        again.restore(states[step])
        assert again.step == step
        torch.rand(7)  # what was drawn elsewhere does not matter
        bench.fit(f"from step {step}", again)
        assert_same(weights_of(again), weights_of(whole))
        assert told(again) == told(whole), step
        assert again.best_score == whole.best_score
        found, expected = (written(bench.folder / name) for name in (f"from step {step}", "whole"))
        assert_same(found["model"], expected["model"])
        assert found["metrics"] == expected["metrics"]


def test_a_run_leaves_the_documented_files(bench: Bench, reid_checkpoint: Path) -> None:
    training = bench.generator(gan={"measured_by": str(reid_checkpoint), "epoch": 3, "measure_epochs": 2}, log_every=1)
    with bench.desk("run", training) as (folder, recorder, writer):
        begin_generator(training, recorder)
        fit_generator(training, folder, recorder, writer)
    names = sorted(path.name.split("tfevents")[0] for path in folder.path.iterdir())
    assert names == ["events.out.", "generator.pth", "metrics.jsonl"]
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [(record["epoch"], record["step"]) for record in records] == [(1, 4), (2, 8), (3, 12)]
    for record in records:
        assert {"seconds", "examples_per_second"} < set(record)
        assert record["lr"] == {"lr": GAN["lr"], "lr_d": GAN["lr_d"]}
        assert set(record["losses"]) == {"generator", "discriminator", "penalty"}
        assert set(record["measures"]) == {"real_score", "fake_score"}
    # Every other epoch, and the last.
    assert ["metrics" in record for record in records] == [False, True, True]
    assert {"fid", "kid", "precision", "recall", "diversity", "copies"} == set(records[1]["metrics"])
    checkpoint = written(folder.path)
    assert checkpoint["labels"] == PIDS
    assert checkpoint["params"] == training.params.model_dump(mode="json")
    best = min(records[1:], key=lambda record: record["metrics"]["fid"])
    assert checkpoint["metrics"] == best["metrics"]
    assert images_in(folder.path, "samples") == [(step, (8 * 64, 8 * 32)) for step in (0, 4, 8, 12)]
    assert [step for step, _ in images_in(folder.path, "evaluation/beside_nearest")] == [0, 8, 12]
    events = EventAccumulator(str(folder.path))
    events.Reload()
    assert [event.step for event in events.Scalars("evaluation/fid")] == [0, 8, 12]
    assert [event.step for event in events.Scalars("train/discriminator")] == list(range(1, 13))
    assert [event.step for event in events.Scalars("epoch/real_score")] == [4, 8, 12]


def test_the_means_of_an_epoch_are_those_of_its_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    training, found = bench.generator(log_every=3), list[Losses]()
    take = training.adversaries.step

    def step(batches: list[RealBatch], number: int) -> Losses:
        assert number == len(found)
        found.append(take(batches, number))
        return found[-1]

    monkeypatch.setattr(training.adversaries, "step", step)
    bench.fit("run", training)
    for number, record in enumerate(training.records):
        for name, value in (record["losses"] | record["measures"]).items():
            values = [({**each.losses, **each.metrics})[name].item() for each in found[4 * number : 4 * number + 4]]
            assert value == pytest.approx(math.fsum(values) / 4, rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize(
    ("distances", "kept"),
    [([30.0, 20.0, 25.0], 2), ([10.0, 20.0, 5.0], 3), ([7.0, 7.0, 9.0], 1)],
)
def test_the_generator_with_the_least_distance_is_kept(bench: Bench, distances: list[float], kept: int) -> None:
    training = bench.generator(gan={"epoch": 3}, **EVERY_STEP)
    training.quality = FakeQuality(distances)  # pyright: ignore[reportAttributeAccessIssue]
    bench.fit("run", training)
    assert training.best_score == -distances[kept - 1]
    assert written(bench.folder / "run")["metrics"] == {"fid": distances[kept - 1], "kid": 0.5}
    # Its weights are those of that epoch, no others.
    alone = bench.generator(gan={"epoch": kept}, **EVERY_STEP)
    bench.fit("alone", alone)
    found = written(bench.folder / "run")["model"]
    own = {
        **{f"generator.{name}": value for name, value in alone.adversaries.average.state_dict().items()},
        **{f"discriminator.{name}": value for name, value in alone.adversaries.discriminator.state_dict().items()},
    }
    assert_same(found, own)


def test_with_nothing_to_measure_by_the_last_generator_is_kept(bench: Bench) -> None:
    training = bench.generator(gan={"epoch": 2, "measure_epochs": 2})
    bench.fit("run", training)
    found = written(bench.folder / "run")
    average = training.adversaries.average.state_dict()
    assert all(torch.equal(found["model"][f"generator.{name}"], value) for name, value in average.items())
    assert (training.best_score, found["metrics"]) == (None, {})


@pytest.mark.parametrize(("log_every", "save"), [(1, 1), (100, 2), (3, 0)])
def test_a_loss_of_nan_ends_the_run_and_the_state_is_from_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, log_every: int, save: int
) -> None:
    training = bench.generator(log_every=log_every, checkpoint={"every_steps": save})
    take = training.adversaries.step

    def step(batches: list[RealBatch], number: int) -> Losses:
        if number == 2:
            batches[0].pictures[0, 0, 0, 0] = math.nan
        return take(batches, number)

    monkeypatch.setattr(training.adversaries, "step", step)
    noticed = {(1, 1): 3, (100, 2): 4, (3, 0): 3}[log_every, save]
    with pytest.raises(DivergedError, match=rf"step {noticed} or shortly before: .* begin anew") as caught:
        bench.fit("run", training)
    assert isinstance(caught.value, UserError)
    state = load_tensors(bench.folder / "run" / "last.pth")
    assert state["step"] == {1: 2, 2: 2, 0: 0}[save]
    assert not (bench.folder / "run" / "generator.pth").exists()


@pytest.mark.parametrize("step", [1, 4])
def test_a_signal_stops_a_run_after_the_step_it_came_in(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    training = bench.generator(log_every=3, checkpoint={"every_steps": 0, "every_minutes": 0})
    take = training.adversaries.step

    def interrupted(batches: list[RealBatch], number: int) -> Losses:
        if number + 1 == step:
            signal.raise_signal(signal.SIGTERM)
        return take(batches, number)

    monkeypatch.setattr(training.adversaries, "step", interrupted)
    with pytest.raises(Interrupted):
        bench.fit("stopped", training)
    assert load_tensors(bench.folder / "stopped" / "last.pth")["step"] == step
    again = bench.generator(resume=True, log_every=3)
    again.restore(bench.folder / "stopped" / "last.pth")
    bench.fit("again", again)
    whole = bench.generator(log_every=3)
    bench.fit("whole", whole)
    assert_same(weights_of(again), weights_of(whole))
    assert told(again) == told(whole)


def test_another_seed_is_another_run(bench: Bench) -> None:
    runs = [bench.generator(seed=seed, gan={"epoch": 1}) for seed in (3, 3, 4)]
    for number, training in enumerate(runs):
        bench.fit(f"run {number}", training)
    assert_same(weights_of(runs[0]), weights_of(runs[1]))
    assert runs[0].batches(0) == runs[1].batches(0) != runs[2].batches(0)
    assert not torch.equal(*(weights_of(run)["average first.weight"] for run in runs[1:]))


def test_an_epoch_shows_every_image_once_and_as_many_again_as_fill_its_steps(bench: Bench) -> None:
    training = bench.generator(gan={"batch_size": 5, "d_update_freq": 4})
    assert training.steps_per_epoch == 2  # 31 images in 7 batches, and an eighth
    orders = [training.batches(epoch) for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    for batches in orders:
        assert [len(batch) for batch in batches] == [5] * 8
        shown = [image for batch in batches for image in batch]
        assert sorted(shown[:31]) == list(range(31))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[RealBatch]:
    """Every batch that a step is given."""
    batches: list[RealBatch] = []
    real = GanTraining.real

    def noted(self: GanTraining, images: Tensor, indices: Tensor, number: int) -> RealBatch:
        batches.append(real(self, images, indices, number))
        return batches[-1]

    monkeypatch.setattr(epoch.GanTraining, "real", noted)
    return batches


def test_a_step_sees_the_images_of_its_batches_and_their_embeddings(
    bench: Bench, reid_checkpoint: Path, seen: list[RealBatch]
) -> None:
    training = bench.generator(
        gan={"condition": str(reid_checkpoint), "d_update_freq": 2, "epoch": 1}, data_augmentation={"mirror": False}
    )
    assert training.conditions is not None
    assert training.conditions.shape == (31, 12)  # 2 stripes of 4 numbers each, and a global feature of 4
    bench.fit("run", training)
    batches = training.batches(0)
    assert len(seen) == len(batches) == 4
    for batch, indices in zip(seen, batches, strict=True):
        assert batch.conditions is not None
        assert torch.equal(batch.conditions, training.conditions[indices])
        for picture, index in zip(batch.pictures, indices, strict=True):
            pixels = np.asarray(Image.open(training.samples[index].path).convert("RGB")).transpose(2, 0, 1)
            expected = torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1
            torch.testing.assert_close(picture, expected, atol=2e-2, rtol=0)


def test_half_the_images_are_mirrored_and_which_follows_from_the_number(bench: Bench) -> None:
    training = bench.generator()
    images = torch.randint(0, 256, (200, 3, 8, 4), dtype=torch.uint8)
    places = torch.zeros(200, dtype=torch.int64)
    plain = as_pictures(images)
    mirrored = {}
    for number in (0, 0, 1):
        pictures = training.real(images, places, number).pictures
        flags = [bool(torch.equal(*pair)) for pair in zip(pictures, plain.flip(3), strict=True)]
        same = [bool(torch.equal(*pair)) for pair in zip(pictures, plain, strict=True)]
        assert [not flag for flag in flags] == same
        assert 60 < sum(flags) < 140
        assert mirrored.setdefault(number, flags) == flags
    assert mirrored[0] != mirrored[1]
    still = bench.generator(data_augmentation={"mirror": False})
    assert torch.equal(still.real(images, places, 0).pictures, plain)


def test_a_run_goes_on_only_as_it_began(bench: Bench, reid_checkpoint: Path) -> None:
    began = bench.generator(gan={"condition": str(reid_checkpoint)})
    bench.fit("began", began)
    state = bench.folder / "began" / "state 0"
    for gan, message in (
        ({"lr": 0.5}, r"params gan_params\.lr: the run began with 0\.002, now it is 0\.5"),
        ({"condition": ""}, r"network of gan_params\.condition: the run began with "),
    ):
        other = bench.generator(gan={"condition": str(reid_checkpoint), **gan}, resume=True)
        with pytest.raises(DataError, match=message):
            other.restore(state)
    longer = bench.generator(gan={"condition": str(reid_checkpoint), "epoch": 9}, resume=True)
    longer.restore(state)
    spoilt = load_tensors(state)
    del spoilt["adversaries"]
    save_tensors(bench.folder / "spoilt", spoilt)
    with pytest.raises(DataError, match="does not fit this run"):
        longer.restore(bench.folder / "spoilt")


def test_too_few_images_are_refused(bench: Bench) -> None:
    with pytest.raises(ParamsError, match=r"gan_params\.batch_size: 32 is more than the 31 training images; lower it"):
        bench.generator(gan={"batch_size": 32})
    for path in sorted((bench.folder / "market" / "bounding_box_train").iterdir())[5:]:
        path.unlink()
    with pytest.raises(DataError, match="5 training images; a generator learns from at least 6"):
        bench.generator(gan={"batch_size": 2})


@pytest.mark.parametrize("condition", [False, True])
def test_a_run_starts_from_the_weights_of_another(bench: Bench, reid_checkpoint: Path, condition: bool) -> None:
    gan: dict[str, Any] = {"condition": str(reid_checkpoint) if condition else ""}
    bench.fit("first", bench.generator(gan={**gan, "epoch": 1}))
    snapshot = written(bench.folder / "first")["model"]
    both = {"pretrain_snapshot_g": str(bench.folder / "first"),
            "pretrain_snapshot_d": str(bench.folder / "first" / "generator.pth")}  # fmt: skip
    second = bench.generator(gan={**gan, **both}, seed=5)
    for net, prefix in (("generator", "generator."), ("average", "generator."), ("discriminator", "discriminator.")):
        own = getattr(second.adversaries, net).state_dict()
        assert_same(own, {name: snapshot[prefix + name] for name in own})
    fresh = bench.generator(gan=gan, seed=5)
    for name in both:
        one = bench.generator(gan={**gan, name: both[name]}, seed=5)
        loaded, left = ("generator", "discriminator") if name.endswith("g") else ("discriminator", "generator")
        assert_same(getattr(one.adversaries, loaded).state_dict(), getattr(second.adversaries, loaded).state_dict())
        assert_same(getattr(one.adversaries, left).state_dict(), getattr(fresh.adversaries, left).state_dict())
    # A run that goes on has its weights already: the files may be gone.
    params = bench.params({**gan, "pretrain_snapshot_g": str(bench.folder / "gone")})
    with pytest.raises(DataError, match=r"gan_params\.pretrain_snapshot_g: .*no such file; train a generator first"):
        build_gan_training(params, read_gan_data(params), CPU)
    build_gan_training(params, read_gan_data(params), CPU, resume=True)


def test_too_little_memory_is_told_with_what_to_lower(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    training = bench.generator()

    def step(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    monkeypatch.setattr(training.adversaries, "step", step)
    with pytest.raises(UserError, match=r"8 pictures of 64 x 32: .*\n?.*lower gan_params\.batch_size, ngf, ndf or"):
        bench.fit("run", training)


def test_samples_come_from_the_same_noise_each_time(bench: Bench) -> None:
    """What is shown differs from epoch to epoch by what was learnt alone."""
    training = bench.generator(gan={"epoch": 3, "preheat_steps": 8})
    bench.fit("run", training)
    events = EventAccumulator(str(bench.folder / "run"), {"images": 0})
    events.Reload()
    first, second, third = (event.encoded_image_string for event in events.Images("samples"))
    # In two epochs only the discriminator learns.
    assert first == second != third


def test_a_generator_that_would_never_learn_is_refused(bench: Bench) -> None:
    with pytest.raises(ParamsError, match=r"gan_params\.preheat_steps: 8 of 8 steps leave none to the generator"):
        bench.generator(gan={"preheat_steps": 8})
    bench.generator(gan={"preheat_steps": 7})
