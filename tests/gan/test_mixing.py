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
from data.loader import load_batches
from engine.batches import TrainBatch, train_batches
from engine.build import Training, build_training, read_training_data
from engine.gan import mixing as mixing_module
from engine.monitor import DivergedError
from engine.step import ModelWithLoss
from gan.checkpoint import load_generator
from gan.mixing import GeneratedImages, build_generated_images, num_generated
from gan.trainer import as_pictures
from losses.branch_updates import draw_updated_parts
from losses.generated import GeneratedLoss
from losses.loss import Losses
from losses.triplet import batch_hard, triplet_loss
from models.generator import pictures_as_bytes
from models.outputs import PARTS, BranchOutput, concat_embeddings
from tests.gan.conftest import CPU, Bench, images_in, told, written
from utils.checkpoint import load_tensors, save_tensors
from utils.distributed import Dist
from utils.errors import DataError, ParamsError
from utils.randomness import BRANCHES, GENERATED, GENERATED_AUGMENTATION, GENERATED_PIXELS, seed_for

PLAIN: dict[str, Any] = {"data_augmentation": {"mirror": False}}


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory, make_market: Any, reid_checkpoint: Path) -> dict[str, str]:
    """A generator of anybody and one of whom it is told to show; their weights make for pictures full of contrast."""
    folder = tmp_path_factory.mktemp("generators")
    make_market(folder / "market")
    bench = Bench(folder)
    for name, condition in (("anybody", ""), ("somebody", str(reid_checkpoint))):
        bench.fit(name, bench.generator(gan={"epoch": 1, "condition": condition}))
        checkpoint = written(folder / name)
        for key, value in checkpoint["model"].items():
            if key.startswith("generator.") and value.ndim > 1:
                value.mul_(6)
        torch.save(checkpoint, folder / name / "generator.pth")
    return {name: str(folder / name) for name in ("anybody", "somebody")}


def mixing_of(training: Training) -> GeneratedImages:
    assert training.mixing is not None
    return training.mixing


def weights_of(training: Training) -> dict[str, Tensor]:
    return dict(training.network.state_dict())


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


def first_step(training: Training) -> TrainBatch:
    (batch,) = next(train_batches(training, training.batches(training.epoch)))
    return batch


def losses_of(training: Training, batch: TrainBatch, step: int = 0) -> tuple[Tensor, Losses]:
    module = training.stepper.module
    assert isinstance(module, ModelWithLoss)
    training.network.train()
    torch.manual_seed(0)
    return module(batch, step, False)


def test_there_are_as_many_images_as_the_ratio_says(bench: Bench, generators: dict[str, str]) -> None:
    for ratio, number in ((0.1, 1), (0.5, 4), (1.0, 8), (2.3, 18)):
        gan = {"pretrain_snapshot_g": generators["anybody"], "mix_ratio": ratio}
        training = bench.reid(gan)
        assert num_generated(training.params) == number
        generated = first_step(training).generated
        assert generated is not None
        assert generated.pixels.shape == (number, 3, 64, 32)
        assert (generated.labels, generated.sources) == (None, None)
        loss = training.criterion["generated"]
        assert isinstance(loss, GeneratedLoss)
        assert loss.weights.share == number / 8


def test_images_of_nobody_are_the_generators_augmented(bench: Bench, generators: dict[str, str]) -> None:
    training = bench.reid({"pretrain_snapshot_g": generators["anybody"]})
    params, generator = training.params, load_generator(Path(generators["anybody"]), "").generator
    batches = list(train_batches(training, training.batches(0)))
    assert len(batches) == 4
    for number, (batch,) in enumerate(batches):
        random = torch.Generator().manual_seed(seed_for(GENERATED, params.seed, number, 0))
        pictures = pictures_as_bytes(generator(torch.randn(4, 6, generator=random)).detach())
        random.manual_seed(seed_for(GENERATED_AUGMENTATION, params.seed, number))
        options = params.data_augmentation
        draws = sample(options, 4, 64, 32, 64, 32, random)
        random.manual_seed(seed_for(GENERATED_PIXELS, params.seed, number, 0))
        expected = augment(pictures, draws, options, 64, 32, random)
        assert batch.generated is not None
        torch.testing.assert_close(batch.generated.pixels, expected, atol=0.03, rtol=0)
        assert batch.real is None
    assert len({batch[0].generated.pixels.sum().item() for batch in batches if batch[0].generated}) == 4
    real = {name: first_step(each).pixels for name, each in (("with", training), ("without", without(bench)))}
    assert torch.equal(real["with"], real["without"])


def without(bench: Bench, **settings: Any) -> Training:
    return bench.reid({"mix_ratio": 0.0}, **settings)


def test_the_loss_of_a_step_with_images_of_nobody_is_that_of_both_together(
    bench: Bench, generators: dict[str, str]
) -> None:
    training = bench.reid(
        {"pretrain_snapshot_g": generators["anybody"], "mix_ratio": 0.7}, tri_loss_lambda_cls=0.5, **PLAIN
    )
    batch = first_step(training)
    assert batch.generated is not None
    assert len(batch.generated.pixels) == 6
    loss, (terms, measures) = losses_of(training, batch)
    assert set(terms) == {"softmax_parts", "softmax_global", "triplet_global", "outliers"}
    output = training.network(torch.cat([batch.pixels, batch.generated.pixels]))
    real = {name: [part[:8] for part in branch.scores.logits] for name, branch in output.items()}
    made = [part[8:] for branch in output.values() for part in branch.scores.logits]
    for name, parts in real.items():
        expected = 0.5 * sum(F.cross_entropy(part, batch.labels).item() for part in parts)
        assert terms[f"softmax_{name}"].item() == pytest.approx(expected, rel=1e-4)
    # Each of the 6 counts as much as each of the 8.
    expected = 0.5 * sum(-F.log_softmax(part, 1).mean(1).sum().item() for part in made) / 8
    assert terms["outliers"].item() == pytest.approx(expected, rel=1e-4)
    assert loss.item() == pytest.approx(sum(term.item() for term in terms.values()), rel=1e-6)
    right = torch.cat([(part.argmax(1) == batch.labels).float() for parts in real.values() for part in parts])
    assert measures["accuracy"].item() == pytest.approx(right.mean().item())
    # The triplets are formed of real images alone.
    triplets = batch_hard(output["global"].features[:, :8], batch.labels)
    compared = triplet_loss(triplets, training.params.tri_loss_margin).mean()
    assert terms["triplet_global"].item() == pytest.approx(compared.item(), rel=1e-4)


def test_images_of_somebody_have_the_labels_of_their_sources(bench: Bench, generators: dict[str, str]) -> None:
    training = bench.reid(
        {"pretrain_snapshot_g": generators["somebody"], "mix_ratio": 1.5, "lambda_consistency": 0.4}, **PLAIN
    )
    mixing, batch = mixing_of(training), first_step(training)
    assert batch.generated is not None
    assert batch.generated.labels is not None
    assert batch.generated.sources is not None
    sources = batch.generated.sources
    # Each image of the batch once, before any is taken again.
    assert sorted(sources[:8].tolist()) == list(range(8))
    assert len(set(sources[8:].tolist())) == 4
    assert torch.equal(batch.generated.labels, batch.labels[sources])
    # And they are made from the embeddings of those very images.
    random = torch.Generator().manual_seed(seed_for(GENERATED, training.params.seed, 0, 0))
    noise = torch.randn(12, 6, generator=random)
    assert mixing.conditions is not None
    indices = torch.tensor(training.batches(0)[0])
    pictures = pictures_as_bytes(mixing.generator(noise, mixing.conditions[indices][sources]))
    made = mixing.make(indices.tolist(), batch.labels, 0)
    assert (made.images.int() - pictures.int()).abs().max() <= 1
    assert made.images.is_contiguous(memory_format=torch.channels_last)
    # The sources learn nothing from what was made of them.
    loss, (terms, measures) = losses_of(training, batch)
    assert set(terms) == {"softmax_parts", "softmax_global", "triplet_global", "generated", "consistency"}
    output = training.network(torch.cat([batch.pixels, batch.generated.pixels]))
    labels, expected = batch.generated.labels, 0.0
    for branch in output.values():
        for part in branch.scores.logits:
            expected += F.cross_entropy(part[8:], labels, reduction="sum").item() / 8
    assert terms["generated"].item() == pytest.approx(expected, rel=1e-4)
    embeddings = concat_embeddings(output)
    cosines = F.cosine_similarity(embeddings[8:], embeddings[:8][sources])
    assert terms["consistency"].item() == pytest.approx(0.4 * (1 - cosines).sum().item() / 8, rel=1e-3, abs=1e-6)
    assert "accuracy" in measures
    assert loss.isfinite()


def test_without_a_weight_there_is_no_consistency_term(bench: Bench, generators: dict[str, str]) -> None:
    training = bench.reid({"pretrain_snapshot_g": generators["somebody"]})
    _, (terms, _) = losses_of(training, first_step(training))
    assert set(terms) == {"softmax_parts", "softmax_global", "triplet_global", "generated"}


@pytest.mark.parametrize("who", ["anybody", "somebody"])
def test_a_later_start_meets_the_same_generated_images(bench: Bench, generators: dict[str, str], who: str) -> None:
    settings: dict[str, Any] = {"accumulate_steps": 2}
    training = bench.reid({"pretrain_snapshot_g": generators[who], "mix_ratio": 1.0}, **settings)
    whole = list(train_batches(training, training.batches(0)))
    assert len(whole) == 2
    torch.rand(100)  # what was drawn before does not matter
    training.step = 1
    (again,) = train_batches(training, training.batches(0)[2:])
    for batch, expected in zip(again, whole[1], strict=True):
        assert batch.generated is not None
        assert expected.generated is not None
        for value, other in zip(batch.generated, expected.generated, strict=True):
            assert (value is None) == (other is None)
            assert value is None or other is None or torch.equal(value, other)
    first, second = (each.generated for each in whole[1])
    assert first is not None
    assert second is not None
    assert not torch.equal(first.pixels, second.pixels)
    other = bench.reid({"pretrain_snapshot_g": generators[who], "mix_ratio": 1.0}, seed=9, **settings)
    generated = first_step_of_two(other).generated
    assert generated is not None
    assert whole[0][0].generated is not None
    assert not torch.equal(generated.pixels, whole[0][0].generated.pixels)


def first_step_of_two(training: Training) -> TrainBatch:
    return next(train_batches(training, training.batches(0)))[0]


def test_each_process_makes_images_of_its_own(
    bench: Bench, generators: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixing = mixing_of(bench.reid({"pretrain_snapshot_g": generators["anybody"]}))
    made = []
    for rank in (0, 1):
        monkeypatch.setattr(mixing_module, "this_process", lambda rank=rank: Dist(rank, 2, rank, 2))
        made.append(mixing.make(range(8), torch.zeros(8, dtype=torch.int64), 0).images)
    assert not torch.equal(*made)


def test_images_are_made_in_the_size_that_training_images_are_read_in(bench: Bench, generators: dict[str, str]) -> None:
    training = bench.reid(
        {"pretrain_snapshot_g": generators["anybody"]}, data_augmentation={"resize_h": 80, "resize_w": 44}
    )
    made = mixing_of(training).make(range(8), torch.zeros(8, dtype=torch.int64), 0)
    assert made.images.shape == (4, 3, 80, 44)
    generated = first_step(training).generated
    assert generated is not None
    assert generated.pixels.shape == (4, 3, 64, 32)


def test_the_first_epochs_may_be_without(bench: Bench, generators: dict[str, str]) -> None:
    training = bench.reid({"pretrain_snapshot_g": generators["anybody"], "mix_start_epoch": 1}, log_every=1)
    plain = without(bench, epoch=1, log_every=1)
    for each in (training, plain):
        bench.fit(f"run {each is plain}", each)
    usual = {"softmax_parts", "softmax_global", "triplet_global"}
    assert [set(record["losses"]) for record in training.records] == [usual, usual | {"outliers"}]
    assert told(training)[:1] == told(plain)


def test_a_ratio_of_zero_leaves_every_bit_as_it_was(bench: Bench, generators: dict[str, str]) -> None:
    """Whatever else is set of the generator."""
    plain = without(bench, epoch=1)
    params = plain.params.model_copy(update={"gan_params": Params().gan_params})
    runs = [
        build_training(params, read_training_data(params), CPU),
        bench.reid({"mix_ratio": 0.0, "pretrain_snapshot_g": generators["somebody"], "lr": 0.5, "ngf": 9}, epoch=1),
    ]
    for number, training in enumerate(runs):
        assert training.mixing is None
        assert "generated" not in training.criterion
        batch = first_step(training)
        assert (batch.generated, batch.real) == (None, None)
        bench.fit(f"run {number}", training)
        assert not (bench.folder / f"run {number}" / "generator.pth").exists()
    assert_same(weights_of(runs[0]), weights_of(runs[1]))
    assert told(runs[0]) == told(runs[1])
    assert set(runs[0].records[0]["losses"]) == {"softmax_parts", "softmax_global", "triplet_global"}
    measures = {"accuracy", *(f"triplet_global_{name}" for name in ("correct", "active", "positive", "negative"))}
    assert set(runs[0].records[0]["measures"]) == measures


def test_a_stripe_that_is_left_out_learns_nothing_from_generated_images_either(
    bench: Bench, generators: dict[str, str]
) -> None:
    model = {"model": "resnet_18", "last_conv_stride": 1, "feature_dim": 8, "pcb_n_parts": 4, "feature_global_dim": 4}
    training = bench.reid(
        {"pretrain_snapshot_g": generators["somebody"], "lambda_consistency": 1.0},
        model_params={**model, "random_drop_branches": 2},
        tri_loss_margin=0,
    )
    batch = first_step(training)
    left_out = set()
    for step in range(4):
        random = torch.Generator().manual_seed(seed_for(BRANCHES, training.params.seed, step))
        keep = draw_updated_parts(4, 2, random).tolist()
        for wanted in ("generated", "consistency"):
            training.network.zero_grad()
            outputs: list[BranchOutput] = []

            def watch(_: object, __: object, output: BranchOutput, outputs: list[BranchOutput] = outputs) -> None:
                output.scores.logits.retain_grad()
                output.embeddings.retain_grad()
                outputs.append(output)

            handle = training.network.branches[PARTS].register_forward_hook(watch)
            with_terms(training, batch, step, wanted).backward()
            handle.remove()
            (output,) = outputs
            gradient = (output.scores.logits if wanted == "generated" else output.embeddings).grad
            assert gradient is not None
            assert [bool(part[8:].any()) for part in gradient] == keep
            assert not gradient[:, :8].any()
        left_out |= {place for place, kept in enumerate(keep) if not kept}
    assert len(left_out) > 1


def with_terms(training: Training, batch: TrainBatch, step: int, name: str) -> Tensor:
    """One term of a step, with its gradient."""
    terms: dict[str, Tensor] = {}
    forward = training.criterion.forward

    def kept(*inputs: Any) -> Losses:
        found = forward(*inputs)
        terms.update(found.losses)
        return found

    training.criterion.forward = kept  # pyright: ignore[reportAttributeAccessIssue]
    try:
        losses_of(training, batch, step)
    finally:
        training.criterion.forward = forward
    return terms[name]


ALONG: dict[str, Any] = {"adv_train": True, "mix_ratio": 0.5, "penalty_every": 2, "d_update_freq": 2}


def test_a_generator_that_learns_along_takes_a_step_for_each_batch(bench: Bench) -> None:
    training = bench.reid(ALONG, epoch=1, accumulate_steps=2, log_every=1)
    learner = mixing_of(training).learner
    assert learner is not None
    assert mixing_of(training).generator is learner.average
    before = {name: value.clone() for name, value in learner.state()["generator"].items()}
    bench.fit("run", training)
    assert {int(entry["step"]) for entry in learner.optimizer_d.state.values()} == {8}
    assert {int(entry["step"]) for entry in learner.optimizer_g.state.values()} == {4}
    after = learner.state()["generator"]
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    (record,) = training.records
    names = {"generator", "discriminator", "penalty", "real_score", "fake_score"}
    assert {f"gan_{name}" for name in names} < set(record["measures"])
    assert set(record["losses"]) == {"softmax_parts", "softmax_global", "triplet_global", "outliers"}
    # What it learnt is there in the end, and can be sampled and mixed in.
    trained = load_generator(bench.folder / "run", "")
    assert_same(dict(trained.generator.state_dict()), dict(learner.average.state_dict()))
    assert trained.params == training.params
    model = written(bench.folder / "run")["model"]
    assert all(torch.equal(model[f"discriminator.{name}"], value) for name, value in
               learner.discriminator.state_dict().items())  # fmt: skip
    assert build_generated_images(mixed_in(training.params, bench.folder / "run"), [], CPU, resume=False) is not None
    assert not (bench.folder / "run" / "last.pth").exists()


def mixed_in(params: Params, run: Path) -> Params:
    gan = params.gan_params.model_copy(update={"adv_train": False, "pretrain_snapshot_g": str(run)})
    return params.model_copy(update={"gan_params": gan})


def test_the_learner_sees_the_real_images_as_they_were_read(bench: Bench, reid_checkpoint: Path) -> None:
    settings: dict[str, Any] = {"data_augmentation": {"mirror": False, "random_erasing": {"probability": 1.0}}}
    training = bench.reid(ALONG | {"condition": str(reid_checkpoint)}, **settings)
    mixing, indices = mixing_of(training), training.batches(0)[0]
    batch = first_step(training)
    assert batch.real is not None
    (loaded,) = load_batches(training.store, training.labels, [indices], CPU)
    assert torch.equal(batch.real.pictures, as_pictures(loaded.images))
    assert batch.real.conditions is not None
    assert mixing.conditions is not None
    assert torch.equal(batch.real.conditions, mixing.conditions[indices])
    mirrored = bench.reid(ALONG)
    real = mixing_of(mirrored).real(loaded.images, indices, 3)
    assert real is not None
    assert real.conditions is None
    flags = [bool(torch.equal(*pair)) for pair in zip(real.pictures, as_pictures(loaded.images), strict=True)]
    flips = [bool(torch.equal(*pair)) for pair in zip(real.pictures, as_pictures(loaded.images).flip(3), strict=True)]
    assert flips == [not flag for flag in flags]
    assert len(set(flags)) == 2


def test_the_learner_sees_them_in_the_size_of_its_pictures(bench: Bench) -> None:
    training = bench.reid(ALONG, data_augmentation={"resize_h": 80, "resize_w": 44})
    real = first_step(training).real
    assert real is not None
    assert real.pictures.shape == (8, 3, 64, 32)
    assert real.pictures.abs().max() <= 1


def test_every_state_of_a_training_along_leads_to_the_same_end(bench: Bench, reid_checkpoint: Path) -> None:
    gan = ALONG | {"condition": str(reid_checkpoint), "mix_start_epoch": 1}
    settings: dict[str, Any] = {"checkpoint": {"every_steps": 3}, "log_every": 3}
    whole = bench.reid(gan, **settings)
    states = bench.fit("whole", whole)
    # In the epoch without generated images and in the one with them.
    steps = [load_tensors(path)["step"] for path in states]
    assert steps == [0, 3, 4, 6]
    assert images_in(bench.folder / "whole", "samples") == [(4, (8 * 64, 8 * 32)), (8, (8 * 64, 8 * 32))]
    for step, path in list(zip(steps, states, strict=True))[1::2]:
        again = bench.reid(gan, resume=True, **settings)
        again.restore(path)
        assert again.step == step
        bench.fit(f"from step {step}", again)
        assert_same(weights_of(again), weights_of(whole))
        assert_same(written(bench.folder / f"from step {step}")["model"], written(bench.folder / "whole")["model"])
        assert told(again) == told(whole)


def test_a_learner_starts_from_snapshots(bench: Bench, generators: dict[str, str]) -> None:
    training = bench.reid(ALONG | {"pretrain_snapshot_g": generators["anybody"]})
    learner = mixing_of(training).learner
    assert learner is not None
    expected = load_generator(Path(generators["anybody"]), "").generator.state_dict()
    assert_same(dict(learner.generator.state_dict()), dict(expected))
    assert_same(dict(learner.average.state_dict()), dict(expected))


def test_several_processes_do_not_train_a_generator_along(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    params = bench.params(ALONG)
    monkeypatch.setattr(mixing_module, "this_process", lambda: Dist(0, 2, 0, 2))
    with pytest.raises(ParamsError, match=r"gan_params\.adv_train: trains the generator on one device, .* 2 processes"):
        build_generated_images(params, [], CPU, resume=False)
    assert build_generated_images(bench.params({"mix_ratio": 0.0}), [], CPU, resume=False) is None


def test_a_run_goes_on_with_the_generator_it_began_with(
    bench: Bench, generators: dict[str, str], tmp_path: Path
) -> None:
    gan = {"pretrain_snapshot_g": generators["somebody"]}
    began = bench.reid(gan)
    save_tensors(tmp_path / "state", began.state())
    bench.reid(gan, resume=True).restore(tmp_path / "state")
    checkpoint = written(Path(generators["somebody"]))
    checkpoint["model"]["generator.first.weight"].view(-1)[1] += 1e-3
    (tmp_path / "other").mkdir()
    torch.save(checkpoint, tmp_path / "other" / "generator.pth")
    other = bench.reid({"pretrain_snapshot_g": str(tmp_path / "other")}, resume=True)
    with pytest.raises(DataError, match="generator: the run began with "):
        other.restore(tmp_path / "state")
    mixing = mixing_of(began)
    assert mixing.digest == mixing_of(bench.reid(gan)).digest
    assert load_tensors(tmp_path / "state")["belongs_to"]["generator"] == mixing.digest


def test_what_does_not_fit_the_generator_is_refused(
    bench: Bench, generators: dict[str, str], reid_checkpoint: Path, tmp_path: Path
) -> None:
    train = read_training_data(without(bench).params).train
    anybody, somebody = ({"pretrain_snapshot_g": generators[name], "mix_ratio": 1.0} for name in generators)
    for changes, message in (
        (
            {"lambda_consistency": 1.0},
            r"gan_params\.lambda_consistency: has no effect, as the generator of gan_params\.pre",
        ),
        ({"condition": str(reid_checkpoint)}, r"gan_params\.condition: has no effect, .* shows nobody known"),
        ({"pretrain_snapshot_g": str(tmp_path / "gone")}, "no such file; train a generator first"),
        ({"pretrain_snapshot_g": str(reid_checkpoint)}, "holds no person generator"),
    ):
        with pytest.raises((ParamsError, DataError), match=message):
            build_generated_images(bench.params(anybody | changes), train, CPU, resume=False)
    with pytest.raises(DataError, match=r"gan_params\.condition: .*gone.*: no such file"):
        build_generated_images(bench.params(somebody | {"condition": str(tmp_path / "gone")}), train, CPU, resume=False)
    # Embeddings of another network show other persons, even if it differs in one weight only.
    checkpoint = torch.load(reid_checkpoint, weights_only=True)
    checkpoint["model"]["backbone.conv1.weight"][0, 0, 0, 0] += 1e-3
    torch.save(checkpoint, tmp_path / "other.pth")
    other = bench.params(somebody | {"condition": str(tmp_path / "other.pth")})
    with pytest.raises(
        DataError, match=r"gan_params\.condition: .*other\.pth: not the network that .* was trained with"
    ):
        build_generated_images(other, train, CPU, resume=False)
    build_generated_images(bench.params(somebody | {"condition": str(reid_checkpoint)}), train, CPU, resume=False)


def test_a_generated_image_of_nan_spoils_its_step_as_a_real_one_does(bench: Bench, generators: dict[str, str]) -> None:
    training = bench.reid({"pretrain_snapshot_g": generators["anybody"]})
    batch = first_step(training)
    assert batch.generated is not None
    batch.generated.pixels[0, 0, 0, 0] = torch.nan
    before = {name: value.clone() for name, value in training.network.state_dict().items()}
    found = training.stepper.gradients([batch], 0, spectral=False)
    training.stepper.update(found.finite)
    assert not found.finite
    assert_same(weights_of(training), before)


def test_a_generator_that_learns_along_and_is_lost_ends_the_run(bench: Bench) -> None:
    training = bench.reid(ALONG | {"lr": 1e20, "lr_d": 1e20}, checkpoint={"every_steps": 1})
    with pytest.raises(DivergedError, match=r"of the generator or its discriminator is not finite; .* begin anew"):
        bench.fit("run", training)
    state = load_tensors(bench.folder / "run" / "last.pth")
    assert all(value.isfinite().all() for value in state["mixing"]["generator"].values())
    assert not (bench.folder / "run" / "generator.pth").exists()
