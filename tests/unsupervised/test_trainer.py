"""Training without labels: what it learns from, what it records, and from where it is resumed."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.samples import UNKNOWN_PID
from evaluate.core.retrieval.approximate import find_neighbours
from losses.camera_proxies import EMPTY, CameraProxies
from models.backbones.registry import BACKBONES
from tests.gan.conftest import assert_same, keep_states, records_of
from tests.gpu_rehearsal.trainings import TINY_ENTRY
from tests.processes import run_in_processes
from tests.runs import curves_of
from tests.unsupervised.conftest import Bench
from unsupervised.clustering import OUTLIER
from unsupervised.trainer import ClusterTrainer
from utils.checkpoint import load_checkpoint
from utils.distributed import this_process
from utils.errors import DataError, ParamsError

EVALUATED = {"evaluation_params": {"type": "market_evaluate", "rank_list_queries": 0}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clustering_params": {"memory_update": "hard"}, "accumulate_steps": 2, "ema_decay": 0.5, **EVALUATED},
        {"clustering_params": {"weight": 0}, "supervised_contrastive": {"weight": 1.0, "on": ["concat"]}},
        {"clustering_params": {"proxies": "camera", "camera_normalisation": True}, "ema_decay": 0.5},
    ],
    ids=["each", "hard, averaged and evaluated", "no memory", "camera proxies"],
)
def test_a_run_resumed_from_any_state_ends_in_the_same_bits(bench: Bench, changes: dict[str, Any]) -> None:
    whole = bench.trainer("whole", **changes)
    states = keep_states(whole)
    whole.fit()
    assert list(states) == list(range(7))
    for step in (0, 2, 3, 4):
        resumed = bench.trainer(f"from {step}", states[step], **changes)
        torch.rand(7)  # draws elsewhere do not matter
        resumed.fit()
        assert records_of(resumed) == records_of(whole)
        assert_same(resumed.network.state_dict(), whole.network.state_dict())
        assert_same(dict(resumed.criterion.named_buffers()), dict(whole.criterion.named_buffers()))
        assert torch.equal(resumed.clusters.labels, whole.clusters.labels)


def test_clusters_are_recorded(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    trainer = bench.trainer(loggers=["tensorboard"])
    trainer.fit()
    lines = [json.loads(line) for line in trainer.folder.metrics.read_text().splitlines()]
    for line in lines:
        assert 4 <= line["measures"]["clusters"] <= 15
        assert 0 <= line["measures"]["outliers"] <= 23
        assert 0.5 < line["measures"]["adjusted_rand_index"] <= 1  # each identity has a colour of its own
        assert line["losses"]["cluster_nce"] > 0
    first = lines[0]["measures"]
    agreement = f"adjusted Rand index {first['adjusted_rand_index']:.3f}"
    assert (
        f"epoch 1: {first['clusters']} clusters, {first['outliers']} outliers of 31 images, {agreement}" in caplog.text
    )
    curves = curves_of(trainer.folder.path)
    for name in ("clusters", "outliers", "adjusted_rand_index"):
        assert [value for _, value in curves[f"epoch/{name}"]] == pytest.approx(
            [line["measures"][name] for line in lines]
        )
    kept = load_checkpoint(trainer.folder.best)
    assert kept.labels == []
    assert_same(kept.model, trainer.network.state_dict())  # without an evaluation the last one is kept


def test_probes_reach_the_search_for_neighbours(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    probes: list[int] = []

    def noted(features: Tensor, count: int, number: int, **options: bool) -> Tensor:
        probes.append(number)
        return find_neighbours(features, count, number, **options)

    monkeypatch.setattr("unsupervised.trainer.find_neighbours", noted)
    trainer = bench.trainer(clustering_params={"probes": 4})
    trainer.form_clusters()
    assert probes == [4]
    assert trainer.clusters.metrics["clusters"] >= 4


def test_labels_decide_nothing(bench: Bench) -> None:
    found = []
    for name in ("market", "swapped"):
        if name == "swapped":
            shutil.copytree(bench.folder / "market", bench.folder / name)
            train = bench.folder / name / "bounding_box_train"
            for path in sorted(train.iterdir()):
                # All of one identity, in the order of before.
                path.rename(train / f"0001_{path.name.partition('_')[2].partition('.')[0]}_{path.name}")
            names = sorted(train.iterdir(), key=lambda path: path.name.rpartition("_00_")[2])
            for number, path in enumerate(names):
                path.rename(train / f"{number:04d}_c{path.name.split('_c')[1].split('s')[0]}s1{path.suffix}")
        trainer = Bench(bench.folder, name).trainer(name)
        trainer.fit()
        found.append(trainer.network.state_dict())
    assert_same(*found)


def batches_and_labels(trainer: ClusterTrainer) -> tuple[list[list[int]], Tensor]:
    trainer.form_clusters()
    return trainer.batches_of_clusters(), trainer.clusters.labels


def test_batches_hold_k_images_of_each_of_p_clusters_and_no_outliers(bench: Bench) -> None:
    trainer = bench.trainer(clustering_params={"iterations": 20, "eps": 0.4}, accumulate_steps=2)
    batches, labels = batches_and_labels(trainer)
    assert (labels == OUTLIER).any()
    assert len(batches) == 40
    assert len({tuple(batch) for batch in batches}) > 35  # each turn is drawn anew
    for batch in batches:
        rows = labels[batch].view(4, 2)
        assert (rows[:, 0] == rows[:, 1]).all()
        assert len({*rows[:, 0].tolist()}) == 4
        assert OUTLIER not in rows
    assert {index for batch in batches for index in batch} == {*(labels != OUTLIER).nonzero().flatten().tolist()}
    trainer.epoch = 1
    assert trainer.batches_of_clusters() != batches


def test_batches_balanced_by_camera_show_a_cluster_by_different_cameras(bench: Bench) -> None:
    trainer = bench.trainer(batch_sampling_params={"class_balanced": True, "P": 4, "K": 2, "balance": "camera"})
    batches, labels = batches_and_labels(trainer)
    cameras = [sample.camid for sample in trainer.samples]
    for batch in batches:
        for first, second in zip(batch[::2], batch[1::2], strict=True):
            own = {cameras[index] for index in (labels == labels[first]).nonzero().flatten().tolist()}
            assert (cameras[first] != cameras[second]) == (len(own) > 1)
    for path in (bench.folder / "market" / "bounding_box_train").iterdir():
        path.rename(path.with_name(re.sub(r"_c\d+", "_c1", path.name, count=1)))
    with pytest.raises(ParamsError, match=r'balance: "camera" .* of one camera'):
        bench.trainer(batch_sampling_params={"class_balanced": True, "P": 4, "K": 2, "balance": "camera"})


def test_several_sources_share_the_clusters(bench: Bench) -> None:
    crops = bench.folder / "crops"
    crops.mkdir()
    for number, path in enumerate(sorted((bench.folder / "market" / "bounding_box_train").iterdir())):
        shutil.copy(path, crops / f"{number}{path.suffix}")
    folders = [str(bench.folder / "market"), str(crops)]
    trainer = bench.trainer(batches_dir=folders, clustering_params={"k1": 6})
    assert [sample.pid for sample in trainer.samples[31:]] == [UNKNOWN_PID] * 31
    trainer.form_clusters()
    assert trainer.clusters.metrics["adjusted_rand_index"] > 0.5  # of those with labels
    labels = trainer.clusters.labels
    assert {*labels[:31].tolist()} == {*labels[31:].tolist()}  # the same pictures


def test_the_memory_begins_with_the_centroids_of_the_epoch(bench: Bench) -> None:
    trainer = bench.trainer()
    trainer.form_clusters()
    loss = trainer.criterion["cluster_nce"]
    number = int(loss.num_clusters)  # pyright: ignore[reportArgumentType]
    assert number == trainer.clusters.metrics["clusters"]
    lengths = loss.memory.norm(dim=1)  # pyright: ignore[reportCallIssue]
    assert lengths[:number].tolist() == pytest.approx([1] * number)
    assert not lengths[number:].any()


def test_camera_proxies_begin_with_the_centroids_of_each_camera_and_learn(bench: Bench) -> None:
    trainer = bench.trainer(clustering_params={"proxies": "camera"})
    trainer.form_clusters()
    loss, labels = trainer.criterion["camera_proxies"], trainer.clusters.labels
    assert isinstance(loss, CameraProxies)
    features = trainer._embed()
    cameras = torch.tensor([sample.camid for sample in trainer.samples])
    pairs = {*zip(labels.tolist(), cameras.tolist(), strict=True)} - {(OUTLIER, camera) for camera in cameras.tolist()}
    assert len(pairs) > trainer.clusters.metrics["clusters"]  # some persons are seen by several cameras
    rows = {pair: row for row, pair in enumerate(zip(loss.clusters.tolist(), loss.cameras.tolist(), strict=True))}
    assert rows.keys() == pairs | {(EMPTY, EMPTY)}
    for cluster, camera in pairs:
        expected = features[(labels == cluster) & (cameras == camera)].mean(0)
        torch.testing.assert_close(loss.memory[rows[cluster, camera]], expected / expected.norm())
    assert (loss.clusters != EMPTY).sum() == len(pairs)
    before = loss.memory.clone()
    trainer.fit()
    assert trainer.records[-1]["losses"]["intra_camera"] > 0
    assert trainer.records[-1]["losses"]["inter_camera"] > 0
    assert not torch.equal(loss.memory, before)


def test_camera_proxies_of_unknown_cameras_are_refused(bench: Bench) -> None:
    for path in (bench.folder / "market" / "bounding_box_train").iterdir():
        path.rename(path.with_name(re.sub(r"_c\d+", "_c1", path.name, count=1)))
    with pytest.raises(ParamsError, match=r'^clustering_params\.proxies: "camera" .* set it to "cluster"$'):
        bench.trainer(clustering_params={"proxies": "camera"})
    with pytest.raises(ParamsError, match=r"^clustering_params\.camera_normalisation: tells .* set it to false$"):
        bench.trainer(clustering_params={"camera_normalisation": True})


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        (
            {"distance": "cosine", "k1": 30, "k2": 6, "eps": 1e-9},
            r"outliers: 31; at least 4 clusters.*P 4 .*; raise clustering_params.eps [^k]*\(eps 1e-09, min_samples 2\)",
        ),
        ({"eps": 0.99, "k1": 31}, r"epoch 1: 1, outliers: 0.*lower clustering_params.eps.* or clustering_params.k1 \("),
    ],
)
def test_too_few_clusters_end_the_training_with_what_to_change(
    bench: Bench, changes: dict[str, Any], advice: str
) -> None:
    trainer = bench.trainer(clustering_params=changes)
    with pytest.raises(ParamsError, match=advice):
        trainer.fit()
    assert not trainer.folder.last.exists()  # a start that fails leaves no run


def test_a_run_whose_clusters_become_too_few_goes_on_with_other_settings(bench: Bench) -> None:
    whole = bench.trainer("whole")
    states = keep_states(whole)
    whole.fit()
    stopped = bench.trainer(state=states[2], clustering_params={"eps": 0.99, "k1": 31})
    advice = r"epoch 2: 1, outliers: 0.* or clustering_params.k1 in the run's params.json, then .* resume_train"
    with pytest.raises(ParamsError, match=advice):
        stopped.fit()
    resumed = bench.trainer("resumed", stopped.folder.last)
    resumed.fit()
    assert_same(resumed.network.state_dict(), whole.network.state_dict())


def test_a_single_cluster_ends_the_training_even_if_a_batch_takes_no_more(bench: Bench) -> None:
    trainer = bench.trainer(batch_sampling_params="1*2", clustering_params={"eps": 0.99, "k1": 31})
    with pytest.raises(ParamsError, match="at least 2 clusters"):
        trainer.fit()


def test_too_few_images_are_refused(bench: Bench) -> None:
    with pytest.raises(ParamsError, match=r"batch_sampling_params.P: .*16 clusters, but the 31 training images .* 15"):
        bench.trainer(batch_sampling_params="16*2")
    (bench.folder / "empty" / "query").mkdir(parents=True)
    shutil.copy(next((bench.folder / "market" / "query").iterdir()), bench.folder / "empty" / "query")
    with pytest.raises(DataError, match="no training images"):
        Bench(bench.folder, "empty").trainer()


def test_an_evaluation_of_classes_is_refused(bench: Bench) -> None:
    with pytest.raises(ParamsError, match=r"evaluation_params.type: .* classifier.* clustering_params.method"):
        bench.trainer(evaluation_params={"type": "classification_evaluate"})


def test_an_image_that_is_lost_in_between_is_named(bench: Bench) -> None:
    trainer = bench.trainer(bad_images="skip", data_cache="ram")
    trainer.samples[0].path.unlink()
    with pytest.raises(DataError, match="1 training images cannot be read any more"):
        trainer.form_clusters()


def test_crops_without_labels_need_no_test_set(bench: Bench) -> None:
    for number, path in enumerate(sorted((bench.folder / "market" / "bounding_box_train").iterdir())):
        crop = bench.folder / "crops" / f"day {number % 2}" / f"{number:03d}{path.suffix}"
        crop.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, crop)
    trainer = Bench(bench.folder, "crops").trainer(data_layout="unlabelled")
    assert {sample.pid for sample in trainer.samples} == {UNKNOWN_PID}
    trainer.fit()
    assert trainer.folder.best.is_file()
    assert "adjusted_rand_index" not in trainer.records[-1]["measures"]


def train_in_a_process(
    folder: Path, section: dict[str, Any]
) -> tuple[list[int], dict[str, Tensor], dict[str, Tensor], list[Any]]:
    BACKBONES["resnet_18"] = TINY_ENTRY
    folder = folder / f"rank {this_process().rank}"
    trainer = Bench(folder).trainer(batch_sampling_params="2*2", epoch=1, clustering_params=section)
    trainer.fit()
    memory = dict(trainer.criterion.named_buffers())
    return trainer.clusters.labels.tolist(), trainer.network.state_dict(), memory, records_of(trainer)


@pytest.mark.slow
@pytest.mark.parametrize("section", [{}, {"proxies": "camera"}], ids=["clusters", "camera proxies"])
def test_two_processes_share_clusters_and_memory(bench: Bench, section: dict[str, Any]) -> None:
    for rank in range(2):
        shutil.copytree(bench.folder / "market", bench.folder / f"rank {rank}" / "market")
    (labels, network, memory, records), other = run_in_processes(train_in_a_process, 2, bench.folder, section)
    assert labels == other[0]
    assert_same(network, other[1])
    assert_same(memory, other[2])
    assert records == other[3]
    assert records[0]["measures"]["clusters"] >= 4
    trainer = bench.trainer("alone")
    trainer.form_clusters()
    assert records[0]["measures"]["clusters"] == trainer.clusters.metrics["clusters"]
