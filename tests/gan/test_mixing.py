"""Generated images in the training of a re-ID network: what they are, what they teach, and what stays as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from config.params import Params
from data.augmentation.apply import augment
from data.augmentation.params import sample
from data.dataset import read_dataset
from engine.batches import ExtraBatch, TrainBatch, batches_of_epoch
from engine.build import build_trainer
from engine.monitor import DivergedError
from engine.trainer import ReidTrainer
from gan import mixing
from gan.checkpoint import load_generator
from gan.mixing import GeneratedImages, build_generated_images
from gan.steps import GanStepper, as_pictures
from losses.loss import Losses
from losses.triplet import batch_hard, triplet_loss
from models.generator import pictures_as_bytes
from models.outputs import concat_branches
from tests.gan.conftest import CPU, Bench, assert_same, generator_file, keep_states, note_steps, records_of
from tests.runs import pictures_of
from utils.checkpoint import load_tensors, save_tensors
from utils.distributed import Dist
from utils.errors import DataError, ParamsError
from utils.randomness import GENERATED, GENERATED_AUGMENTATION, GENERATED_PIXELS, seed_for

Generators = dict[str, str]
ALONG: dict[str, Any] = {"adv_train": True, "mix_ratio": 0.5, "penalty_every": 2, "d_update_freq": 2}
"""A generator that learns along."""
REAL_LOSSES = {"softmax_parts", "softmax_global", "triplet_global"}


def extra_of(trainer: ReidTrainer) -> GeneratedImages:
    assert isinstance(trainer.extra_images, GeneratedImages)
    return trainer.extra_images


def learner_of(trainer: ReidTrainer) -> GanStepper:
    learner = extra_of(trainer).learner
    assert learner is not None
    return learner


def first_batch(trainer: ReidTrainer) -> tuple[TrainBatch, ExtraBatch]:
    """With its generated images, which there must be."""
    batch = next(trainer.load_steps())[0]
    assert batch.extra is not None
    return batch, batch.extra


def make_images(trainer: ReidTrainer) -> Tensor:
    """What the generator adds to the first batch, before it is augmented."""
    made = extra_of(trainer).make(0, range(8), torch.zeros(8, dtype=torch.int64), 0)
    assert made is not None
    return made.images


def losses_of(trainer: ReidTrainer, batch: TrainBatch, step: int = 0) -> tuple[Tensor, Losses]:
    trainer.network.train()
    torch.manual_seed(0)
    inputs = batch.pixels, batch.labels, batch.taught, batch.extra, torch.tensor(step), None, False
    return trainer.stepper.module(*inputs)


@pytest.mark.parametrize(("ratio", "number"), [(0.1, 1), (0.5, 4), (1.0, 8), (2.3, 18)])
def test_as_many_images_as_the_ratio_says(bench: Bench, generators: Generators, ratio: float, number: int) -> None:
    trainer = bench.reid(gan={"pretrain_snapshot_g": generators["anybody"], "mix_ratio": ratio})
    assert trainer.params.num_generated == number
    _, extra = first_batch(trainer)
    assert extra.images.shape == (number, 3, 64, 32)
    assert (extra.labels, extra.sources) == (None, None)


def test_images_of_nobody_are_the_generators_augmented(bench: Bench, generators: Generators) -> None:
    trainer, plain = bench.reid(gan={"pretrain_snapshot_g": generators["anybody"]}), bench.reid(gan={"mix_ratio": 0.0})
    params, generator = trainer.params, load_generator(Path(generators["anybody"]), "").generator
    batches = [batch for (batch,) in trainer.load_steps()]
    assert len(batches) == 4
    for number, (batch, (without,)) in enumerate(zip(batches, plain.load_steps(), strict=True)):
        random = torch.Generator().manual_seed(seed_for(GENERATED, params.seed, number, 0))
        pictures = pictures_as_bytes(generator(torch.randn(4, 6, generator=random)).detach())
        random.manual_seed(seed_for(GENERATED_AUGMENTATION, params.seed, number))
        options = params.data_augmentation
        draws = sample(options, 4, 64, 32, 64, 32, random)
        random.manual_seed(seed_for(GENERATED_PIXELS, params.seed, number, 0))
        expected = augment(pictures, draws, options, 64, 32, random)
        assert batch.extra is not None
        torch.testing.assert_close(batch.extra.images, expected, atol=0.03, rtol=0)
        assert without.extra is None
        assert torch.equal(batch.pixels, without.pixels)
    assert len({batch.extra.images.sum().item() for batch in batches if batch.extra}) == 4


def test_images_of_somebody_have_the_labels_of_their_sources(bench: Bench, generators: Generators) -> None:
    trainer = bench.reid(gan={"pretrain_snapshot_g": generators["somebody"], "mix_ratio": 1.5})
    generated, (batch, _) = extra_of(trainer), first_batch(trainer)
    made = generated.make(0, batch.indices, batch.labels, 0)
    assert made is not None
    assert made.sources is not None
    assert made.labels is not None
    # Each image of the batch once, before any is taken again.
    assert sorted(made.sources[:8].tolist()) == list(range(8))
    assert len(set(made.sources[8:].tolist())) == 4
    assert torch.equal(made.labels, batch.labels[made.sources])
    # They are made from the embeddings of those very images.
    noise = torch.randn(12, 6, generator=torch.Generator().manual_seed(seed_for(GENERATED, trainer.params.seed, 0, 0)))
    assert generated.conditions is not None
    conditions = generated.conditions[list(batch.indices)][made.sources]
    pictures = pictures_as_bytes(generated.generator(noise, conditions))
    assert (made.images.int() - pictures.int()).abs().max() <= 1
    assert made.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("who", "weight", "names"),
    [("anybody", 0.0, {"outliers"}), ("somebody", 0.0, {"generated"}), ("somebody", 0.4, {"generated", "consistency"})],
)
def test_a_generated_image_counts_as_much_as_a_real_one(
    bench: Bench, generators: Generators, who: str, weight: float, names: set[str]
) -> None:
    gan = {"pretrain_snapshot_g": generators[who], "mix_ratio": 0.7, "lambda_consistency": weight}
    trainer = bench.reid(gan=gan, tri_loss_lambda_cls=0.5)
    batch, extra = first_batch(trainer)
    loss, (losses, metrics) = losses_of(trainer, batch)
    output = trainer.network(torch.cat([batch.pixels, extra.images]))
    real = {name: branch.scores.logits[:, :8] for name, branch in output.items()}
    made = torch.cat([branch.scores.logits[:, 8:] for branch in output.values()])
    assert made.shape[1] == 6
    # The triplets are formed of real images alone.
    triplets = batch_hard(output["global"].features[:, :8], batch.labels)
    expected = {"triplet_global": triplet_loss(triplets, trainer.params.tri_loss_margin).mean()}
    for name, parts in real.items():
        expected[f"softmax_{name}"] = 0.5 * torch.stack([F.cross_entropy(part, batch.labels) for part in parts]).sum()
    if extra.labels is None:
        expected["outliers"] = 0.5 * -F.log_softmax(made, 2).mean(2).sum() / 8
    else:
        labels, embeddings = extra.labels, concat_branches(output, "embeddings")
        summed = [F.cross_entropy(part, labels, reduction="sum") for part in made]
        expected["generated"] = 0.5 * torch.stack(summed).sum() / 8
        cosines = F.cosine_similarity(embeddings[8:], embeddings[:8][extra.sources])
        expected["consistency"] = weight * (1 - cosines).sum() / 8
    assert set(losses) == REAL_LOSSES | names
    for name, value in losses.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-3, abs=1e-6), name
    assert loss.item() == pytest.approx(sum(each.item() for each in losses.values()), rel=1e-6)
    right = torch.cat([(parts.argmax(2) == batch.labels).float() for parts in real.values()])
    assert metrics["accuracy"].item() == pytest.approx(right.mean().item())


@pytest.mark.parametrize("who", ["anybody", "somebody"])
def test_the_generated_images_follow_from_seed_and_batch(bench: Bench, generators: Generators, who: str) -> None:
    gan = {"pretrain_snapshot_g": generators[who], "mix_ratio": 1.0}
    settings: dict[str, Any] = {"gan": gan, "accumulate_steps": 2}
    trainer = bench.reid(**settings)
    whole = list(trainer.load_steps())
    assert len(whole) == 2
    torch.rand(100)  # what was drawn before does not matter
    trainer.step = 1
    (again,) = trainer.load_steps()
    for batch, expected in zip(again, whole[1], strict=True):
        assert batch.extra is not None
        assert expected.extra is not None
        for value, other in zip(batch.extra, expected.extra, strict=True):
            assert (value is None) == (other is None)
            assert value is None or other is None or torch.equal(value, other)
    another_seed, _ = first_batch(bench.reid(**settings, seed=9))
    made = [batch.extra.images for batch in (whole[0][0], *whole[1], another_seed) if batch.extra is not None]
    assert len({images.sum().item() for images in made}) == 4


def test_each_process_makes_its_own_images(
    bench: Bench, generators: Generators, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, made = bench.reid(gan={"pretrain_snapshot_g": generators["anybody"]}), []
    for rank in (0, 1):
        monkeypatch.setattr(mixing, "this_process", lambda rank=rank: Dist(rank, 2, rank, 2))
        made.append(make_images(trainer))
    assert not torch.equal(*made)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_have_the_size_that_their_readers_expect(
    bench: Bench, generators: Generators, interpolation: str
) -> None:
    read: dict[str, Any] = {"data_augmentation": {"resize_h": 80, "resize_w": 44, "interpolation": interpolation}}
    trainer = bench.reid(gan={"pretrain_snapshot_g": generators["anybody"]}, **read)
    generator = load_generator(Path(generators["anybody"]), "").generator
    random = torch.Generator().manual_seed(seed_for(GENERATED, trainer.params.seed, 0, 0))
    drawn = generator(torch.randn(4, 6, generator=random)).detach()
    resized = F.interpolate(drawn, (80, 44), mode=interpolation, antialias=True)
    # Sizes of batches change the last bits of the pictures, which may then be rounded to the next value.
    assert (make_images(trainer).int() - pictures_as_bytes(resized).int()).abs().max() <= 1
    _, extra = first_batch(trainer)
    assert extra.images.shape == (4, 3, 64, 32)
    # And a generator that learns along sees the real ones in the size of its own.
    trainer = bench.reid(gan=ALONG, **read)
    steps = note_steps(learner_of(trainer))
    trainer.train_step(next(trainer.load_steps()))
    pictures = steps[0][0][0].pictures
    assert pictures.shape == (8, 3, 64, 32)
    assert pictures.abs().max() <= 1


def test_the_first_epochs_may_be_without(bench: Bench, generators: Generators) -> None:
    trainer = bench.reid(gan={"pretrain_snapshot_g": generators["anybody"], "mix_start_epoch": 1}, log_every=1)
    plain = bench.reid("plain", gan={"mix_ratio": 0.0}, epoch=1, log_every=1)
    for each in (trainer, plain):
        each.fit()
    assert [set(record["losses"]) for record in trainer.records] == [REAL_LOSSES, REAL_LOSSES | {"outliers"}]
    assert records_of(trainer)[:1] == records_of(plain)


def test_a_ratio_of_zero_leaves_every_bit_as_it_was(bench: Bench, generators: Generators) -> None:
    """Whatever else is set of the generator."""
    gan = {"mix_ratio": 0.0, "pretrain_snapshot_g": generators["somebody"], "lr": 0.5, "ngf": 9}
    trainer = bench.reid(gan=gan, epoch=1)
    params = trainer.params.model_copy(update={"gan_params": Params().gan_params})
    plain = build_trainer(params, bench.run("plain"), CPU)
    for each in (trainer, plain):
        each.fit()
        assert each.extra_images is None
        assert not each.folder.generator.exists()
    assert_same(dict(trainer.network.state_dict()), dict(plain.network.state_dict()))
    assert records_of(trainer) == records_of(plain)
    assert set(trainer.records[0]["losses"]) == REAL_LOSSES
    triplets = {f"triplet_global_{name}" for name in ("correct", "active", "positive", "negative")}
    assert set(trainer.records[0]["measures"]) == {"accuracy"} | triplets


def test_a_generator_that_learns_along_takes_a_step_for_each_batch(bench: Bench) -> None:
    trainer = bench.reid(gan=ALONG, epoch=1, accumulate_steps=2, log_every=1)
    learner = learner_of(trainer)
    assert extra_of(trainer).generator is learner.average
    before = {name: value.clone() for name, value in learner.generator.state_dict().items()}
    trainer.fit()
    assert {int(entry["step"]) for entry in learner.optimizer_d.state.values()} == {8}
    assert {int(entry["step"]) for entry in learner.optimizer_g.state.values()} == {4}
    after = learner.generator.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    (record,) = trainer.records
    names = {"generator", "discriminator", "penalty", "real_score", "fake_score"}
    assert {f"gan_{name}" for name in names} < set(record["measures"])
    assert set(record["losses"]) == REAL_LOSSES | {"outliers"}
    # What it learnt is kept, and can be sampled and mixed in.
    trained = load_generator(trainer.folder.path, "")
    assert_same(dict(trained.generator.state_dict()), dict(learner.average.state_dict()))
    assert trained.params == trainer.params
    model = generator_file(trainer.folder.path)["model"]
    of_discriminator = {f"discriminator.{name}": value for name, value in learner.discriminator.state_dict().items()}
    assert_same({name: model[name] for name in model if name.startswith("discriminator.")}, of_discriminator)
    assert bench.reid("next", gan={"pretrain_snapshot_g": str(trainer.folder.path)}).extra_images is not None
    assert not trainer.folder.last.exists()


def test_the_learner_sees_the_real_images_as_they_were_read(bench: Bench, reid_checkpoint: Path) -> None:
    erasing = {"random_erasing": {"probability": 1.0}}
    for is_mirrored in (False, True):
        gan = ALONG | {"condition": str(reid_checkpoint)}
        trainer = bench.reid(gan=gan, data_augmentation={"mirror": is_mirrored, **erasing})
        steps = note_steps(learner_of(trainer))
        (batch,) = next(trainer.load_steps())
        trainer.train_step([batch])
        ((first, second), _) = steps[0]
        indices = batches_of_epoch(trainer.params, trainer.batches.labels.tolist(), 0)[0]
        assert first is second
        read = as_pictures(trainer.batches.store.read(indices))
        assert list(batch.indices) == indices
        same = [torch.equal(*pair) for pair in zip(first.pictures, read, strict=True)]
        flipped = [torch.equal(*pair) for pair in zip(first.pictures, read.flip(3), strict=True)]
        assert flipped == [not each for each in same]
        assert len(set(same)) == (2 if is_mirrored else 1)
        assert is_mirrored or same[0]
        conditions = extra_of(trainer).conditions
        assert first.conditions is not None
        assert conditions is not None
        assert torch.equal(first.conditions, conditions[indices])


def test_a_training_along_resumed_from_any_state_ends_in_the_same_bits(bench: Bench, reid_checkpoint: Path) -> None:
    gan = ALONG | {"condition": str(reid_checkpoint), "mix_start_epoch": 1}
    settings: dict[str, Any] = {"gan": gan, "checkpoint": {"every_steps": 3}, "log_every": 3}
    whole = bench.reid("whole", **settings)
    states = keep_states(whole)
    whole.fit()
    # In the epoch without generated images and in the one with them.
    assert list(states) == [0, 3, 4, 6, 8]
    samples = pictures_of(whole.folder.path)["samples"]
    assert [step for step, _ in samples] == [0, 4, 8]
    for step in (3, 6):
        resumed = bench.reid(f"from step {step}", states[step], **settings)
        assert resumed.step == step
        resumed.fit()
        assert_same(dict(resumed.network.state_dict()), dict(whole.network.state_dict()))
        found, expected = generator_file(resumed.folder.path), generator_file(whole.folder.path)
        assert_same(found["model"], expected["model"])
        assert records_of(resumed) == records_of(whole)


def test_several_processes_do_not_train_a_generator_along(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "this_process", lambda: Dist(0, 2, 0, 2))
    with pytest.raises(ParamsError, match=r"gan_params\.adv_train: .* one device, .* 2 processes"):
        build_generated_images(bench.params(ALONG), [], CPU, False)


def test_a_run_is_resumed_only_with_the_generator_it_began_with(bench: Bench, generators: Generators) -> None:
    began = bench.reid(gan={"pretrain_snapshot_g": generators["somebody"]})
    save_tensors(began.folder.last, began.state())
    bench.reid("again", began.folder.last, gan={"pretrain_snapshot_g": generators["somebody"]})
    checkpoint = generator_file(Path(generators["somebody"]))
    checkpoint["model"]["generator.first.weight"].view(-1)[1] += 1e-3
    torch.save(checkpoint, bench.folder / "other.pth")
    with pytest.raises(DataError, match="extra-image source: the run began with "):
        bench.reid("other", began.folder.last, gan={"pretrain_snapshot_g": str(bench.folder / "other.pth")})


def test_what_does_not_fit_the_generator_is_refused(
    bench: Bench, generators: Generators, reid_checkpoint: Path, tmp_path: Path
) -> None:
    train = read_dataset(bench.params({})).train

    # Embeddings of another network show other persons, even if it differs in one weight only.
    checkpoint = torch.load(reid_checkpoint, weights_only=True)
    checkpoint["model"]["backbone.conv1.weight"][0, 0, 0, 0] += 1e-3
    torch.save(checkpoint, tmp_path / "other.pth")
    for who, key, value, message in (
        ("anybody", "lambda_consistency", 1.0, r"gan_params\.lambda_consistency: has no effect"),
        ("anybody", "condition", str(reid_checkpoint), r"gan_params\.condition: has no effect"),
        ("anybody", "pretrain_snapshot_g", str(tmp_path / "gone"), "no such file; train a generator first"),
        ("anybody", "pretrain_snapshot_g", str(reid_checkpoint), "holds no person generator"),
        ("somebody", "condition", str(tmp_path / "gone"), r"gan_params\.condition: .*gone.*: no such file"),
        ("somebody", "condition", str(tmp_path / "other.pth"), r"gan_params\.condition: .*other\.pth: not the network"),
    ):
        gan = {"pretrain_snapshot_g": generators[who], "mix_ratio": 1.0, key: value}
        with pytest.raises((ParamsError, DataError), match=message):
            build_generated_images(bench.params(gan), train, CPU, False)


def test_a_generator_that_learns_along_and_is_lost_ends_the_run(bench: Bench) -> None:
    trainer = bench.reid(gan=ALONG | {"lr": 1e20, "lr_d": 1e20}, checkpoint={"every_steps": 1})
    with pytest.raises(DivergedError, match="of the generator or its discriminator is not finite"):
        trainer.fit()
    state = load_tensors(trainer.folder.last)
    assert all(value.isfinite().all() for value in state["extra_images"]["generator"].values())
    assert not trainer.folder.generator.exists()
