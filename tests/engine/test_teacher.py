import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from config.params import Params
from data.augmentation.normalisation import Normalisation, normalise
from engine.teacher import Teacher, load_teacher
from engine.trainer import ReidTrainer
from evaluate.core.load_model import load_trained_network
from models.network import Embedder, build_network
from tests.conftest import TINY_PARAMS
from tests.engine.conftest import MakeTrainer
from utils.checkpoint import MODEL_BEST, Checkpoint, save_checkpoint, save_tensors
from utils.errors import DataError

PIDS = [3, 4, 5]
CPU = torch.device("cpu")


def params_with(**changes: Any) -> Params:
    raw = {**TINY_PARAMS, "evaluation_params": {}, **changes}
    return Params.model_validate_json(json.dumps(raw))


def save_model(path: Path, labels: list[int], **changes: Any) -> Embedder:
    """Write a randomly initialised network as a trained one."""
    params = params_with(**changes)
    torch.manual_seed(3)
    network = build_network(params.model_params, len(labels), (params.img_h, params.img_w)).eval()
    for head in network.heads():
        if head.bn is not None and head.bn.running_mean is not None:
            # So that embeddings differ from features.
            nn.init.normal_(head.bn.running_mean)
    save_checkpoint(path, Checkpoint(network.state_dict(), params.model_dump(mode="json"), labels, {}))
    return Embedder(network, labels)


def distilled(path: Path, **weights: float) -> Params:
    return params_with(distillation={"teacher": str(path), "lambda_logits": 1.0, **weights})


@pytest.mark.parametrize("retrieval_of", ["features", "embeddings"])
def test_a_teacher_gives_the_embeddings_and_scores_of_its_network(tmp_path: Path, retrieval_of: str) -> None:
    model = {**TINY_PARAMS["model_params"], "retrieval_of": retrieval_of}
    embedder = save_model(tmp_path / "teacher.pth", PIDS, model_params=model)
    teacher = load_teacher(distilled(tmp_path / "teacher.pth"), PIDS, CPU)
    assert teacher is not None
    pixels = torch.randn(4, 3, 64, 32)
    # As the teacher is: other layouts add up in another order.
    embedder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    embeddings, logits = teacher(pixels, "imagenet")
    torch.testing.assert_close(embeddings, embedder(pixels), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, embedder.logits(pixels), rtol=1e-4, atol=1e-5)
    assert not embeddings.is_inference()
    assert not any(weight.requires_grad for weight in teacher.network.parameters())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_teacher_sees_images_as_it_was_trained_on_them(interpolation: str, tmp_path: Path) -> None:
    changes = {"img_h": 96, "img_w": 48, "data_augmentation": {"normalisation": "half", "interpolation": interpolation}}
    changes["model_params"] = {**TINY_PARAMS["model_params"], "pcb_n_parts": 3, "feature_dim": 12}
    embedder = save_model(tmp_path / "teacher.pth", PIDS, **changes)
    teacher = load_teacher(distilled(tmp_path / "teacher.pth"), PIDS, CPU)
    assert teacher is not None
    images = torch.randint(256, (4, 3, 64, 32), dtype=torch.uint8)
    embeddings, _ = teacher(normalise(images, "imagenet"), "imagenet")
    larger = F.interpolate(normalise(images, "half"), (96, 48), mode=interpolation, antialias=True)
    torch.testing.assert_close(embeddings, embedder(larger), rtol=1e-4, atol=1e-4)


VIT = {
    "img_h": 96,
    "img_w": 48,
    "data_augmentation": {},
    "model_params": {"model": "timm:test_vit", "patch_stride": 14, "feature_dim": 0, "retrieval_of": "features"},
}
"""A transformer, with the mean, standard deviation and interpolation of its weights."""
STUDENTS: dict[str, dict[str, Any]] = {
    "osnet_x0_25": {"feature_dim": 16},
    "timm:mobilenetv2_050": {"feature_dim": 16, "last_conv_stride": 2, "pcb_n_parts": 2, "feature_global_dim": 8},
}


def test_a_transformer_sees_its_own_size_and_normalisation_and_gives_its_class_token(tmp_path: Path) -> None:
    save_model(tmp_path / "teacher.pth", PIDS, **VIT)
    trained = load_trained_network(tmp_path / "teacher.pth")
    assert trained.params.data_augmentation.normalisation == "half"
    teacher = load_teacher(distilled(tmp_path / "teacher.pth"), PIDS, CPU)
    assert teacher is not None
    images = torch.randint(256, (4, 3, 64, 32), dtype=torch.uint8)
    embeddings, logits = teacher(normalise(images, "imagenet"), "imagenet")
    larger = F.interpolate(images / 127.5 - 1, (96, 48), mode="bicubic", antialias=True)
    network = trained.network.eval()
    torch.testing.assert_close(embeddings, network.backbone.maps(larger)[-1].flatten(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, network(larger)["global"].scores.logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalisation", ["imagenet", "half"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_teacher_of_another_size_sees_images_in_half_precision(
    dtype: torch.dtype, normalisation: Normalisation, tmp_path: Path
) -> None:
    save_model(tmp_path / "teacher.pth", PIDS, **VIT)
    teacher = load_teacher(distilled(tmp_path / "teacher.pth"), PIDS, CPU)
    assert teacher is not None
    images = torch.randn(4, 3, 64, 32)
    with torch.autocast("cpu", dtype):
        embeddings, _ = teacher(images.to(dtype), normalisation)
    torch.testing.assert_close(embeddings.float(), teacher(images, normalisation).embeddings, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("model", STUDENTS)
def test_a_transformer_teaches_embedding_and_scores_of_another_family(
    model: str, tmp_path: Path, make_trainer: MakeTrainer
) -> None:
    save_model(tmp_path / "teacher.pth", [*range(3, 13), 20], **VIT)
    section = {"teacher": str(tmp_path / "teacher.pth"), "lambda_logits": 0.5, "lambda_embedding": 2.0}
    student = make_trainer(
        distillation={**section, "temperature": 3.0},
        tri_loss_margin=0,
        model_params={"model": model, **STUDENTS[model]},
    )
    (batch,) = next(student.load_steps())
    taught = batch.taught
    assert taught is not None
    assert taught.embeddings.shape == (8, 64)
    network, projection = student.stepper.network, student.criterion.get_submodule("distillation.projection")
    assert isinstance(projection, nn.Linear)
    output = network(batch.pixels)
    losses = student.criterion(output, batch.labels, teacher=taught).losses
    embedding = (
        torch.cat([part for branch in output.values() for part in branch.embeddings], dim=1) @ projection.weight.T
    )
    distances = [
        (own / own.norm() - theirs / theirs.norm()).square().sum()
        for own, theirs in zip(embedding, taught.embeddings, strict=True)
    ]
    torch.testing.assert_close(losses["distillation_embedding"], 2 * torch.stack(distances).mean())
    softened = (taught.logits / 3).softmax(1)
    divergence = torch.zeros(())
    for part in (part for branch in output.values() for part in branch.scores.logits):
        divergence = divergence + (softened * (softened.log() - (part / 3).softmax(1).log())).sum(1).mean()
    torch.testing.assert_close(losses["distillation_logits"], 0.5 * 9 * divergence)
    torch.stack([losses["distillation_embedding"], losses["distillation_logits"]]).sum().backward()
    assert all(weight.grad is not None for weight in network.backbone.parameters())


def test_a_teacher_of_other_identities_can_teach_embeddings_only(tmp_path: Path) -> None:
    save_model(tmp_path / MODEL_BEST, [3, 4, 6])
    with pytest.raises(DataError, match="was trained on other identities"):
        load_teacher(distilled(tmp_path), PIDS, CPU)
    assert load_teacher(distilled(tmp_path, lambda_logits=0.0, lambda_embedding=1.0), PIDS, CPU) is not None


def test_a_missing_teacher_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"distillation.teacher: .*nowhere: no such file; train the teacher first, or"):
        load_teacher(distilled(tmp_path / "nowhere"), PIDS, CPU)
    assert load_teacher(params_with(), PIDS, CPU) is None


@pytest.fixture
def student(tmp_path: Path, make_trainer: MakeTrainer) -> ReidTrainer:
    """Distils a teacher whose embedding has another size; its set has 11 identities."""
    model = {**TINY_PARAMS["model_params"], "feature_dim": 32}
    save_model(tmp_path / "teacher.pth", [*range(3, 13), 20], model_params=model)
    weights = {"teacher": str(tmp_path / "teacher.pth"), "lambda_logits": 1.0, "lambda_embedding": 1.0}
    return make_trainer(distillation=weights)


def test_a_step_learns_from_the_teacher_and_leaves_it_alone(student: ReidTrainer) -> None:
    network = student.batches.teacher and student.batches.teacher.network
    assert network is not None
    projection = student.criterion.get_submodule("distillation.projection")
    assert isinstance(projection, nn.Linear)
    teacher = {name: value.clone() for name, value in network.state_dict().items()}
    weight = projection.weight.detach().clone()
    batches = next(student.load_steps())
    student.train_step(batches)
    (values,) = student.meter.collect()
    assert {"distillation_logits", "distillation_embedding"} < set(values.losses)
    assert all(torch.equal(value, teacher[name]) for name, value in network.state_dict().items())
    assert not torch.equal(projection.weight, weight)


@pytest.mark.parametrize("change", ["weights", "normalisation"])
def test_a_run_is_resumed_only_with_the_teacher_it_began_with(
    student: ReidTrainer, tmp_path: Path, change: str
) -> None:
    save_tensors(student.folder.last, student.state())
    student.resume()
    trained = load_trained_network(tmp_path / "teacher.pth")
    if change == "weights":
        trained.network.state_dict()["backbone.bn1.bias"].add_(1)
    else:
        augmentation = trained.params.data_augmentation.model_copy(update={"normalisation": "half"})
        trained = trained._replace(params=trained.params.model_copy(update={"data_augmentation": augmentation}))
    student.fingerprint["teacher"] = Teacher(trained, CPU).digest
    with pytest.raises(DataError, match="teacher: the run began with"):
        student.resume()
