"""Training on several data sets, and evaluation on several."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.samples import SOURCE_STRIDE, source_of
from engine.build import read_training_data
from engine.trainer import ReidTrainer
from evaluate.core.context import EvalContext
from evaluate.core.plugins import evaluate
from tests.engine.conftest import MakeTrainer
from utils.errors import DataError, ParamsError

MARKET = {"type": "market_evaluate", "rank_list_queries": 1}


@pytest.fixture
def folders(tmp_path: Path, make_market: Callable[[Path], Path]) -> list[str]:
    """Two data sets with the same names and different images; the trainer's own is called market."""
    other = make_market(tmp_path / "other")
    for path in (other / "bounding_box_train").iterdir():
        if path.name.startswith(("0011", "0012")):
            path.unlink()
    return [str(tmp_path / "market"), str(other)]


@pytest.fixture
def make_joined(make_trainer: MakeTrainer, folders: list[str]) -> Callable[..., ReidTrainer]:
    def make(**changes: Any) -> ReidTrainer:
        return make_trainer(**{"batches_dir": folders, "evaluation_params": MARKET, **changes})

    return make


def test_a_training_learns_the_identities_of_all_its_data_sets(make_joined: Callable[..., ReidTrainer]) -> None:
    trainer = make_joined(batch_sampling_params={"class_balanced": True, "P": 4, "K": 2, "balance": "source"})
    assert len(trainer.batches.pids) == 11 + 9
    assert trainer.network.sizes.num_classes == 20
    for epoch in range(2):
        for (batch,) in trainer.batches.steps(epoch, epoch * trainer.plan.steps_per_epoch):
            sources = [source_of(trainer.batches.pids[label]) for label in batch.labels.tolist()]
            assert sources == [0] * 4 + [1] * 4


def test_losses_and_accuracies_of_each_data_set_are_logged(make_joined: Callable[..., ReidTrainer]) -> None:
    trainer = make_joined()
    for batches in trainer.load_steps():
        trainer.train_step(batches)
        trainer.meter.collect()
    means = trainer.meter.means().metrics
    assert means["share/market"] + means["share/other"] == pytest.approx(1)
    parts = [means[f"accuracy/{name}"] * means[f"share/{name}"] for name in ("market", "other")]
    assert sum(parts) == pytest.approx(means["accuracy"])
    assert all(0 < means[f"cross_entropy/{name}"] < 10 for name in ("market", "other"))


def test_each_test_set_has_figures_of_its_own_and_the_score_is_their_mean(
    make_joined: Callable[..., ReidTrainer], folders: list[str]
) -> None:
    trainer = make_joined()
    found = trainer.evaluate()
    alone = [
        evaluate(EvalContext(trainer.params.with_data(folder), trainer.embedder.eval(), trainer.cache))
        for folder in folders
    ]
    for name, each in zip(("market", "other"), alone, strict=True):
        own = {key.rpartition("/")[2]: value for key, value in found.metrics.items() if key.startswith(f"{name}/")}
        assert own == each.metrics
        assert f"{name}/rank_list" in found.pictures
        assert found.counts[f"{name}/num_query"] == each.counts["num_query"]
    assert found.metrics["mAP"] == pytest.approx((alone[0].score + alone[1].score) / 2)
    assert (found.score, found.score_name) == (found.metrics["mAP"], "mAP")
    assert len(found.reports) == 2


def test_one_of_the_test_sets_can_decide(make_joined: Callable[..., ReidTrainer], folders: list[str]) -> None:
    trainer = make_joined(evaluation_params={**MARKET, "score_of": "other"})
    found = trainer.evaluate()
    assert found.score_name == "other/mAP"
    assert found.score == found.metrics["other/mAP"]


def test_a_single_test_set_apart_from_the_training_has_plain_figures(
    make_trainer: MakeTrainer, folders: list[str]
) -> None:
    trainer = make_trainer(test_dirs=[folders[1]], evaluation_params=MARKET)
    assert len(trainer.batches.pids) == 11
    assert {"rank1", "mAP"} <= trainer.evaluate().metrics.keys()


def test_queries_without_a_match_in_their_own_set_find_none_in_another(
    make_joined: Callable[..., ReidTrainer], folders: list[str]
) -> None:
    shutil.rmtree(Path(folders[1]) / "bounding_box_test")
    with pytest.raises(DataError, match=f"{folders[1]}: no gallery images"):
        make_joined()


def test_embeddings_of_cameras_are_found_in_every_data_set(
    make_joined: Callable[..., ReidTrainer], folders: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = {"model": "timm:test_vit", "feature_dim": 8, "camera_embedding": 3.0}
    for path in (Path(folders[1]) / "bounding_box_train").glob("*_c15*"):
        path.rename(path.with_name(path.name.replace("_c15", "_c11")))
    trainer = make_joined(model_params=model)
    assert trainer.network.camids == (1, 7, 15, *(SOURCE_STRIDE + camid for camid in (1, 7, 11)))
    with caplog.at_level("INFO"):
        trainer.evaluate()
    told = [record.getMessage() for record in caplog.records if "not trained with cameras" in record.getMessage()]
    assert [line.split("cameras ")[1].split(";")[0] for line in told] == ["2", "3, 11", "2", "3"]


def test_a_test_set_may_have_the_cameras_of_the_training(
    make_trainer: MakeTrainer, folders: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = {"model": "timm:test_vit", "feature_dim": 8, "camera_embedding": 3.0}
    for path in (Path(folders[0]) / "bounding_box_train").glob("*_c15*"):
        path.rename(path.with_name(path.name.replace("_c15", "_c11")))
    trainer = make_trainer(
        model_params=model, test_dirs=[folders[1]], evaluation_params={**MARKET, "same_cameras": True}
    )
    with caplog.at_level("INFO"):
        trainer.evaluate()
    told = [record.getMessage() for record in caplog.records if "not trained with cameras" in record.getMessage()]
    assert [line.split("cameras ")[1].split(";")[0] for line in told] == ["2", "3"]


def test_images_without_labels_are_no_identity_of_their_own(
    make_joined: Callable[..., ReidTrainer], folders: list[str], tmp_path: Path
) -> None:
    crops = shutil.copytree(Path(folders[1]) / "bounding_box_train", tmp_path / "crops")
    with pytest.raises(DataError, match=rf"^{crops}: the training images have no labels; leave it out"):
        make_joined(batches_dir=[folders[0], str(crops)], evaluation_params={"type": None})


def test_a_data_set_of_unknown_cameras_is_named_where_cameras_matter(
    make_joined: Callable[..., ReidTrainer], tmp_path: Path, folders: list[str]
) -> None:
    for source, name in (("0003", "ann"), ("0004", "bob"), ("0005", "cat"), ("0006", "dan")):
        (tmp_path / "persons" / name).mkdir(parents=True)
        for path in (tmp_path / "other" / "bounding_box_train").glob(f"{source}*"):
            shutil.copy(path, tmp_path / "persons" / name)
    both = [folders[0], str(tmp_path / "persons")]
    sampling = {"class_balanced": True, "P": 4, "K": 2}
    off = {"batches_dir": both, "evaluation_params": {"type": None}}
    assert make_joined(**off, batch_sampling_params={**sampling, "balance": "source"}).step == 0
    with pytest.raises(ParamsError, match=r"balance: .*persons are of unknown cameras"):
        make_joined(**off, batch_sampling_params={**sampling, "balance": "camera"})
    with pytest.raises(ParamsError, match=r"camera_embedding: .*persons are of unknown cameras"):
        make_joined(**off, model_params={"model": "timm:test_vit", "feature_dim": 8, "camera_embedding": 3.0})


def test_too_few_identities_for_balanced_batches_are_told_before_the_training(
    make_joined: Callable[..., ReidTrainer],
) -> None:
    with pytest.raises(ParamsError, match=r"P: 10 identities.*other.* 9.*lower P"):
        make_joined(batch_sampling_params={"class_balanced": True, "P": 20, "K": 2, "balance": "source"})
    with pytest.raises(ParamsError, match=r"P: 10 identities.*other.* 9.*lower P"):
        make_joined(batch_sampling_params={"class_balanced": True, "P": 10, "K": 2, "balance": "one_source"})


def test_a_run_is_only_resumed_with_the_same_data_sets(make_joined: Callable[..., ReidTrainer]) -> None:
    trainer = make_joined()
    turned = make_joined(batches_dir=[*reversed(trainer.params.sources)])
    assert trainer.fingerprint["train images"] != turned.fingerprint["train images"]
    assert "params test_dirs" not in trainer.fingerprint  # where they lie may change


def test_the_untrained_halves_of_test_sets_are_not_read(make_trainer: MakeTrainer, folders: list[str]) -> None:
    trainer = make_trainer(test_dirs=[folders[1]], evaluation_params=MARKET, bad_images="error")
    (Path(folders[1]) / "bounding_box_train" / "0003_c1s1_000001_00.jpg").write_bytes(b"")
    read_training_data(trainer.params)
    (Path(folders[1]) / "query" / "0031_c2s1_000001_00.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="1 unreadable"):
        read_training_data(trainer.params)
