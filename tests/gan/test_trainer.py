"""The training of a generator: what a step sees, what a run leaves, and from where it is resumed."""

import gc
import json
import math
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.dataset import read_dataset
from engine.monitor import DivergedError
from engine.trainer import Trainer
from evaluate.core.plugins import Evaluation
from gan.steps import RealBatch, as_pictures, real_pictures
from gan.trainer import GanTrainer, batches_of_epoch
from tests.gan.conftest import GAN, PIDS, Bench, assert_same, generator_file, keep_states, note_steps, records_of
from tests.runs import curves_of, files_of, pictures_of
from utils.checkpoint import load_tensors, save_tensors
from utils.errors import DataError, ParamsError, UserError

EVERY_STEP: dict[str, Any] = {"checkpoint": {"every_steps": 1}}


def weights_of(trainer: GanTrainer) -> dict[str, Tensor]:
    """Of both networks and of the average."""
    nets = ("generator", "discriminator", "average")
    return {
        f"{net}.{name}": value for net in nets for name, value in getattr(trainer.stepper, net).state_dict().items()
    }


def steps_with_pictures(folder: Path, tag: str) -> list[int]:
    return [step for step, _ in pictures_of(folder)[tag]]


@pytest.mark.parametrize(
    ("gan", "settings"),
    [
        ({}, {}),
        ({"d_update_freq": 3, "batch_size": 4, "preheat_steps": 2, "penalty": "wgan_gp", "loss": "wgan"},
         {"data_augmentation": {"mirror": False}, "data_cache": "none"}),
        ({"condition": "CHECKPOINT", "measured_by": "CHECKPOINT", "spectral_norm": False}, {}),
    ],
    ids=["unconditional", "several updates a step", "conditioned and measured"],
)  # fmt: skip
def test_a_run_resumed_from_any_state_ends_in_the_same_bits(
    bench: Bench, reid_checkpoint: Path, gan: dict[str, Any], settings: dict[str, Any]
) -> None:
    gan = {name: str(reid_checkpoint) if value == "CHECKPOINT" else value for name, value in gan.items()}
    settings = {"gan": gan, "log_every": 3, **EVERY_STEP, **settings}
    whole = bench.generator("whole", **settings)
    states = keep_states(whole)
    whole.fit()
    steps = whole.plan.steps_per_epoch
    assert list(states) == list(range(2 * steps + 1))
    assert (whole.epoch, whole.step, len(whole.records)) == (2, 2 * steps, 2)
    assert all(math.isfinite(value) for record in whole.records for value in record["losses"].values())
    for step in sorted({0, 1, steps, 2 * steps - 1}):
        resumed = bench.generator(f"from step {step}", states[step], **settings)
        assert resumed.step == step
        torch.rand(7)  # draws elsewhere do not matter
        resumed.fit()
        assert_same(weights_of(resumed), weights_of(whole))
        assert records_of(resumed) == records_of(whole), step
        assert resumed.best.score == whole.best.score
        found, expected = generator_file(resumed.folder.path), generator_file(whole.folder.path)
        assert_same(found["model"], expected["model"])
        assert found["metrics"] == expected["metrics"]


def test_a_run_leaves_the_documented_files(bench: Bench, reid_checkpoint: Path) -> None:
    gan = {"measured_by": str(reid_checkpoint), "epoch": 3, "measure_epochs": 2}
    trainer = bench.generator(gan=gan, log_every=1)
    trainer.fit()
    folder = trainer.folder.path
    assert files_of(folder) == {"events.out.tfevents.*", "generator.pth", "metrics.jsonl"}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(record["epoch"], record["step"]) for record in records] == [(1, 4), (2, 8), (3, 12)]
    for record in records:
        assert {"seconds", "examples_per_second"} < set(record)
        assert record["lr"] == {"lr": GAN["lr"], "lr_d": GAN["lr_d"]}
        assert set(record["losses"]) == {"generator", "discriminator", "penalty"}
        assert set(record["measures"]) == {"real_score", "fake_score"}
    # Every other epoch, and the last.
    assert ["metrics" in record for record in records] == [False, True, True]
    assert {"fid", "kid", "precision", "recall", "diversity", "copies"} == set(records[1]["metrics"])
    checkpoint = generator_file(folder)
    assert checkpoint["labels"] == PIDS
    assert checkpoint["params"] == trainer.params.model_dump(mode="json")
    best = min(records[1:], key=lambda record: record["metrics"]["fid"])
    assert checkpoint["metrics"] == best["metrics"]
    assert steps_with_pictures(folder, "samples") == [0, 4, 8, 12]
    assert steps_with_pictures(folder, "evaluation/beside_nearest") == [0, 8, 12]
    curves = {tag: [step for step, _ in points] for tag, points in curves_of(folder).items()}
    assert curves["evaluation/fid"] == [0, 8, 12]
    assert curves["train/discriminator"] == list(range(1, 13))
    assert curves["epoch/real_score"] == [4, 8, 12]


def test_samples_are_made_from_the_same_noise_each_time(bench: Bench) -> None:
    trainer = bench.generator(gan={"epoch": 3, "preheat_steps": 8})
    trainer.fit()
    at_start, *samples = (picture for _, picture in pictures_of(trainer.folder.path)["samples"])
    # In two epochs only the discriminator learns.
    assert at_start == samples[0] == samples[1] != samples[2]


def test_the_means_of_an_epoch_are_those_of_its_steps(bench: Bench) -> None:
    trainer = bench.generator(log_every=3)
    steps = note_steps(trainer.stepper)
    trainer.fit()
    for number, record in enumerate(trainer.records):
        losses = [losses for _, losses in steps[4 * number : 4 * number + 4]]
        for name, value in (record["losses"] | record["measures"]).items():
            values = [{**each.losses, **each.metrics}[name].item() for each in losses]
            assert value == pytest.approx(math.fsum(values) / 4, rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize(("distances", "kept"), [([30.0, 20.0, 25.0], 2), ([10.0, 20.0, 5.0], 3), ([7.0, 7.0, 9.0], 1)])
def test_the_generator_with_the_least_distance_is_kept(bench: Bench, distances: list[float], kept: int) -> None:
    trainer, others = bench.generator(gan={"epoch": 3}), iter(distances)
    trainer.plan = trainer.plan._replace(evaluate_every=1, evaluate_at_start=False)

    def evaluate(_: object) -> Evaluation:
        fid = next(others)
        return Evaluation(-fid, "fid", {"fid": fid, "kid": 0.5}, {}, {})

    trainer.quality = SimpleNamespace(evaluate=evaluate)  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit()
    assert trainer.best.score == -distances[kept - 1]
    found = generator_file(trainer.folder.path)
    assert found["metrics"] == {"fid": distances[kept - 1], "kid": 0.5}
    # Without a measurement the last one is kept.
    alone = bench.generator("alone", gan={"epoch": kept})
    alone.fit()
    assert alone.best.score is None
    last = generator_file(alone.folder.path)
    assert last["metrics"] == {}
    assert_same(found["model"], last["model"])
    weights = weights_of(alone)
    for name, value in last["model"].items():
        assert torch.equal(value, weights[name.replace("generator.", "average.")])


@pytest.mark.parametrize(("save", "saved"), [(1, 2), (2, 2), (0, 0)])
def test_a_loss_of_nan_ends_the_run_and_no_state_holds_it(bench: Bench, save: int, saved: int) -> None:
    trainer = bench.generator(log_every=100, checkpoint={"every_steps": save})

    def spoil(number: int, batches: list[RealBatch]) -> None:
        if number == 2:
            batches[0].pictures[0, 0, 0, 0] = math.nan

    note_steps(trainer.stepper, spoil)
    with pytest.raises(DivergedError, match="step 3 or shortly before"):
        trainer.fit()
    assert load_tensors(trainer.folder.last)["step"] == saved
    assert not trainer.folder.generator.exists()


def test_another_seed_is_another_run(bench: Bench) -> None:
    runs = [bench.generator(f"run {number}", seed=seed, gan={"epoch": 1}) for number, seed in enumerate((3, 3, 4))]
    for trainer in runs:
        trainer.fit()
    assert_same(weights_of(runs[0]), weights_of(runs[1]))
    assert not torch.equal(*(weights_of(run)["average.first.weight"] for run in runs[1:]))
    orders = [batches_of_epoch(run.params, 31, 0) for run in runs]
    assert orders[0] == orders[1] != orders[2]


def test_an_epoch_shows_every_image_once_and_as_many_again_as_fill_its_steps(bench: Bench) -> None:
    trainer = bench.generator(gan={"batch_size": 5, "d_update_freq": 4})
    assert trainer.plan.steps_per_epoch == 2  # 31 images in 7 batches, and an eighth
    orders = [batches_of_epoch(trainer.params, 31, epoch) for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    for batches in orders:
        assert [len(batch) for batch in batches] == [5] * 8
        shown = [image for batch in batches for image in batch]
        assert sorted(shown[:31]) == list(range(31))


def test_a_step_sees_the_images_of_its_batches_and_their_embeddings(bench: Bench, reid_checkpoint: Path) -> None:
    gan = {"condition": str(reid_checkpoint), "d_update_freq": 2, "epoch": 1}
    trainer = bench.generator(gan=gan, data_augmentation={"mirror": False})
    assert trainer.conditions is not None
    assert trainer.conditions.shape == (31, 12)  # 2 stripes of 4 numbers each, and a global feature of 4
    steps = note_steps(trainer.stepper)
    trainer.fit()
    seen, batches = [batch for step, _ in steps for batch in step], batches_of_epoch(trainer.params, 31, 0)
    assert len(seen) == len(batches) == 4
    samples = read_dataset(trainer.params).train
    for batch, indices in zip(seen, batches, strict=True):
        assert batch.conditions is not None
        assert torch.equal(batch.conditions, trainer.conditions[indices])
        for picture, index in zip(batch.pictures, indices, strict=True):
            pixels = np.asarray(Image.open(samples[index].path).convert("RGB")).transpose(2, 0, 1)
            expected = torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1
            torch.testing.assert_close(picture, expected, atol=2e-2, rtol=0)


def test_half_the_images_are_mirrored_and_which_follows_from_the_number(bench: Bench) -> None:
    params = bench.params({})
    images = torch.randint(0, 256, (200, 3, 8, 4), dtype=torch.uint8)
    plain = as_pictures(images)
    batches = [real_pictures(images, number, params) for number in (0, 0, 1)]
    for batch in batches:
        is_mirrored = (batch != plain).flatten(1).any(1)
        assert 60 < is_mirrored.sum() < 140
        assert torch.equal(batch[is_mirrored], plain[is_mirrored].flip(3))
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
    assert torch.equal(real_pictures(images, 0, bench.params({}, data_augmentation={"mirror": False})), plain)


def test_a_run_is_resumed_only_with_the_settings_it_began_with(bench: Bench, reid_checkpoint: Path) -> None:
    gan: dict[str, Any] = {"condition": str(reid_checkpoint)}
    began = bench.generator("began", gan=gan)
    states = keep_states(began)
    began.fit()
    for changes, message in (
        ({"lr": 0.5}, r"params gan_params\.lr: the run began with 0\.002, now it is 0\.5"),
        ({"condition": ""}, r"network of gan_params\.condition: the run began with "),
    ):
        with pytest.raises(DataError, match=message):
            bench.generator("other", states[0], gan=gan | changes)
    bench.generator("longer", states[0], gan=gan | {"epoch": 9})
    spoilt = load_tensors(states[0])
    del spoilt["gan"]
    save_tensors(bench.folder / "spoilt", spoilt)
    with pytest.raises(DataError, match="does not fit this run"):
        bench.generator("other", bench.folder / "spoilt", gan=gan)


def test_settings_that_do_not_fit_the_data_are_refused(bench: Bench) -> None:
    bench.generator(gan={"preheat_steps": 7})
    with pytest.raises(ParamsError, match=r"gan_params\.preheat_steps: 8 of 8 steps"):
        bench.generator(gan={"preheat_steps": 8})
    with pytest.raises(ParamsError, match=r"gan_params\.batch_size: 32 is more than the 31 training images"):
        bench.generator(gan={"batch_size": 32})
    for path in sorted((bench.folder / "market" / "bounding_box_train").iterdir())[5:]:
        path.unlink()
    with pytest.raises(DataError, match=r"5 training images; .* at least 6"):
        bench.generator(gan={"batch_size": 2})


@pytest.mark.parametrize("is_conditioned", [False, True])
def test_a_run_starts_from_the_weights_of_another(bench: Bench, reid_checkpoint: Path, is_conditioned: bool) -> None:
    gan: dict[str, Any] = {"condition": str(reid_checkpoint) if is_conditioned else ""}
    first = bench.generator("first", gan={**gan, "epoch": 1})
    first.fit()
    snapshot = generator_file(first.folder.path)["model"]
    both = {"pretrain_snapshot_g": str(first.folder.path), "pretrain_snapshot_d": str(first.folder.generator)}
    second = weights_of(bench.generator(gan={**gan, **both}, seed=5))
    for name, value in second.items():
        assert torch.equal(value, snapshot[name.replace("average.", "generator.")])
    fresh = weights_of(bench.generator(gan=gan, seed=5))
    for key, loaded in (("pretrain_snapshot_g", ("generator", "average")), ("pretrain_snapshot_d", ("discriminator",))):
        one = weights_of(bench.generator(gan={**gan, key: both[key]}, seed=5))
        for name, value in one.items():
            assert torch.equal(value, (second if name.startswith(loaded) else fresh)[name])
    trainer = bench.generator("second", gan={**gan, **both})
    save_tensors(trainer.folder.last, trainer.state())
    first.folder.generator.unlink()
    with pytest.raises(DataError, match=r"gan_params\.pretrain_snapshot_g: .*no such file"):
        bench.generator(gan={**gan, **both})
    # The weights of a resumed run come from its state alone.
    resumed = bench.generator("resumed", trainer.folder.last, gan={**gan, **both})
    assert_same(weights_of(resumed), weights_of(trainer))


def test_too_little_memory_is_explained_with_what_to_lower(bench: Bench) -> None:
    trainer = bench.generator()

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    note_steps(trainer.stepper, fail)
    with pytest.raises(UserError, match=r"8 pictures of 64 x 32: .*\n?.*lower gan_params\.batch_size, ngf, ndf or"):
        trainer.fit()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("kind", ["reid", "generator"])
def test_a_finished_trainer_is_freed_without_the_garbage_collector(bench: Bench, kind: str) -> None:
    """What lives on to the interpreter's end, a process group's threads above all, may abort it there."""
    trainer: Trainer
    trainer = bench.reid(gan={"mix_ratio": 0.0}, epoch=1) if kind == "reid" else bench.generator(gan={"epoch": 1})
    trainer.fit()
    remains = weakref.ref(trainer)
    del trainer
    assert remains() is None
