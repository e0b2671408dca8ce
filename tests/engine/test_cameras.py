"""Cameras on their way from the data set to the networks of a training."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from config.load import params_from_dict
from config.params import Params
from data.samples import Sample
from engine.batches import ExtraBatch
from engine.build import build_trainer, check_cameras
from engine.run import RunFolder
from engine.step import ModelWithLoss
from engine.teacher import load_teacher
from engine.trainer import ReidTrainer
from evaluate.core.plugins import plugin_options
from losses.criterion import build_criterion
from losses.generated import GeneratedWeights
from losses.options import LossOptions
from models.network import build_network
from tests.conftest import TINY_PARAMS
from tests.engine.conftest import MakeTrainer
from tests.processes import run_in_processes
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import ParamsError
from utils.precision import FP32

SIE = {"model": "timm:test_vit", "feature_dim": 8, "camera_embedding": 3.0}
TRAINED = (1, 7, 15)
"""Cameras of the hand-made data set's training images; its query has camera 2 only, its gallery others, too."""


def test_each_image_comes_with_its_camera(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(model_params=SIE)
    assert trainer.network.camids == trainer.embedder.camids == TRAINED
    (batch,) = next(trainer.batches.steps(0, 0))
    assert batch.camids is not None
    expected = [int(trainer.batches.paths[index].name.split("_c")[1].split("s")[0]) for index in batch.indices]
    assert batch.camids.tolist() == expected
    assert len({*expected}) > 1


def test_no_camera_is_looked_up_for_networks_that_do_not_ask(trainer: ReidTrainer) -> None:
    (batch,) = next(trainer.batches.steps(0, 0))
    assert batch.camids is None


def test_a_step_uses_the_cameras(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(model_params=SIE, ema_decay=0.9)
    weight = trainer.network.backbone.get_parameter("camera_embedding.weight")
    before = weight.clone()
    (batch,) = next(trainer.batches.steps(0, 0))
    assert batch.camids is not None
    only = batch._replace(camids=torch.full_like(batch.camids, 7))
    trainer.stepper.backward([only], 0)
    assert weight.grad is not None
    assert [bool(row.any()) for row in weight.grad] == [False, True, False]
    trainer.train_step([batch])
    assert not torch.equal(weight, before)
    assert trainer.stepper.evaluated.camids == TRAINED


def test_generated_images_are_of_no_camera() -> None:
    torch.manual_seed(0)
    network = build_network(Params.model_validate({"model_params": SIE}).model_params, 3, (64, 32), TRAINED)
    module = ModelWithLoss(network, build_criterion(LossOptions(), generated=GeneratedWeights(0.5)), FP32)
    seen: list[Any] = []
    module.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    pixels, labels, camids = torch.randn(4, 3, 64, 32), torch.tensor([0, 0, 1, 2]), torch.tensor([7, 1, 15, 1])
    extra = ExtraBatch(torch.randn(2, 3, 64, 32))
    module(pixels, labels, None, extra, torch.tensor(0), None, False, camids)
    assert seen[0].tolist() == [7, 1, 15, 1, -1, -1]


def one_step(folder: Path, market: Path, images: str) -> tuple[list[int], dict[str, Tensor]]:
    """The cameras of a process's images, and the gradients of all processes after one step."""
    raw = {
        **TINY_PARAMS,
        "batches_dir": str(market),
        "batch_sampling_params": images,
        "evaluation_params": {"type": None},
        "model_params": {**SIE, "head": "jpm"},
        "tri_loss_on": ["global", "parts"],
        "gather_embeddings": True,
        "sync_bn": True,
    }
    params, _ = params_from_dict(raw, "params.json", plugin_options)
    trainer = build_trainer(params, RunFolder(str(folder), "run"), torch.device("cpu"))
    (batch,) = next(trainer.batches.steps(0, 0))
    assert batch.camids is not None
    trainer.stepper.backward([batch], 0)
    found = {name: each.grad for name, each in trainer.network.named_parameters() if each.grad is not None}
    return batch.camids.tolist(), found


@pytest.mark.slow
def test_two_processes_know_the_cameras_of_their_own_images(
    tmp_path: Path, make_market: Callable[[Path], Path]
) -> None:
    market = make_market(tmp_path / "market")
    (tmp_path / "run").mkdir()
    expected, whole = one_step(tmp_path, market, "4*2")
    processes = run_in_processes(one_step, 2, tmp_path, market, "2*2")
    assert [camid for camids, _ in processes for camid in camids] == expected
    assert "backbone.camera_embedding.weight" in whole
    for _, gradients in processes:
        assert gradients.keys() == whole.keys()
        for name, gradient in gradients.items():
            assert (gradient - whole[name]).norm() <= 1e-3 * whole[name].norm() + 1e-6, name


@pytest.mark.parametrize("same", [True, False])
def test_a_teacher_sees_the_cameras_of_its_own_data_set_only(tmp_path: Path, same: bool) -> None:
    raw = {**TINY_PARAMS, "evaluation_params": {}, "model_params": SIE}
    params = Params.model_validate_json(json.dumps(raw))
    torch.manual_seed(0)
    network = build_network(params.model_params, 3, (64, 32), TRAINED).eval()
    path = tmp_path / "teacher.pth"
    save_checkpoint(path, Checkpoint(network.state_dict(), params.model_dump(mode="json"), [3, 4, 5], {}))
    teaching = {"teacher": str(path), "lambda_embedding": 1.0}
    student = params.model_copy(update={"distillation": Params.model_validate({"distillation": teaching}).distillation})
    teacher = load_teacher(student, [3, 4, 5] if same else [3, 4, 6], torch.device("cpu"))
    assert teacher is not None
    pixels, camids, own = torch.randn(3, 3, 64, 32), torch.tensor([1, 7, 9]), params.data_augmentation.normalisation
    expected = network.embed(pixels, camids if same else None)
    torch.testing.assert_close(teacher(pixels, own, camids).embeddings, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(teacher(pixels, own).embeddings, network.embed(pixels), rtol=1e-4, atol=1e-5)


def test_a_student_without_cameras_brings_them_to_its_teacher(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    taught = make_trainer(model_params=SIE)
    save_checkpoint(tmp_path / "teacher.pth", taught.best_model(None))
    trainer = make_trainer("student", distillation={"teacher": str(tmp_path / "teacher.pth"), "lambda_embedding": 1.0})
    (batch,) = next(trainer.batches.steps(0, 0))
    assert (batch.camids is not None) == (trainer.network.camids == ())
    trainer.train_step([batch])


def samples(*camids: int) -> list[Sample]:
    return [Sample(Path(f"{place}.jpg"), 1, camid) for place, camid in enumerate(camids)]


def test_a_training_set_of_one_camera_is_one_message() -> None:
    params = Params.model_validate({"batches_dir": "folders", "model_params": SIE})
    check_cameras(samples(0, 3), params)
    with pytest.raises(ParamsError, match=r"^model_params\.camera_embedding: .* batches_dir folders .* set it to 0"):
        check_cameras(samples(0, 0, 0), params)
    check_cameras(samples(0, 0), Params())


@pytest.mark.parametrize("same", [None, False])
def test_cameras_that_the_network_was_not_trained_with_are_reported_once(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, same: bool | None
) -> None:
    caplog.set_level(logging.INFO)
    evaluation = {"type": "market_evaluate", "same_cameras": same}
    trainer = make_trainer(model_params=SIE, evaluation_params=evaluation)
    for _ in range(2):
        assert trainer.evaluate().metrics["mAP"] > 0
    told = [record.getMessage() for record in caplog.records if "was not trained with" in record.getMessage()]
    assert [message.split(" they")[0] for message in told] == [
        "query: the network was not trained with cameras 2;",
        "gallery: the network was not trained with cameras 3, 11;",
    ]
    assert all(("set evaluation_params.same_cameras" in message) == (same is False) for message in told)
