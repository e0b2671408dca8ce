import math

import pytest
import torch

from losses.distillation import embedding_distillation, logits_distillation


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in logits]
    return [power / math.fsum(powers) for power in powers]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_divergence_of_every_part_and_image_equals_its_definition(parts: int, temperature: float) -> None:
    student, teacher = draw(parts, 4, 6), draw(4, 6, seed=1)
    losses = logits_distillation(student, teacher, temperature)
    assert losses.shape == (parts, 4)
    for part in range(parts):
        for image in range(4):
            wanted = softmax(teacher[image].tolist(), temperature)
            given = softmax(student[part, image].tolist(), temperature)
            divergence = math.fsum(p * math.log(p / q) for p, q in zip(wanted, given, strict=True))
            assert losses[part, image].item() == pytest.approx(temperature**2 * divergence, rel=1e-4, abs=1e-6)


def test_the_size_of_the_gradient_tends_to_a_limit_as_the_temperature_grows() -> None:
    """Hinton et al. 2015, equation 4: for centred logits T^2 times the gradient is their difference / N."""
    student = draw(1, 1, 6)
    student = (student - student.mean()).requires_grad_()
    teacher = draw(1, 6, seed=1)
    teacher = teacher - teacher.mean()
    (gradient,) = torch.autograd.grad(logits_distillation(student, teacher, 1000.0).sum(), student)
    assert gradient[0, 0].tolist() == pytest.approx(((student.detach()[0] - teacher)[0] / 6).tolist(), abs=0.02)


def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient() -> None:
    teacher = draw(4, 6)
    student = teacher.expand(2, 4, 6).clone().requires_grad_()
    losses = logits_distillation(student, teacher, 4.0)
    assert losses.tolist() == [[0.0] * 4] * 2
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    assert gradient.abs().max().item() < 1e-5
    assert embedding_distillation(teacher, teacher).tolist() == [0.0] * 4
    assert embedding_distillation(7 * teacher, teacher).tolist() == pytest.approx([0.0] * 4, abs=1e-12)


def test_the_embeddings_distance_equals_its_definition() -> None:
    student, teacher = draw(4, 5), draw(4, 5, seed=1)
    for image, loss in enumerate(embedding_distillation(student, teacher).tolist()):
        lengths = [math.sqrt(math.fsum(x**2 for x in row[image].tolist())) for row in (student, teacher)]
        pairs = zip(student[image].tolist(), teacher[image].tolist(), strict=True)
        assert loss == pytest.approx(math.fsum((a / lengths[0] - b / lengths[1]) ** 2 for a, b in pairs), rel=1e-5)


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = draw(1, 4, 6).requires_grad_(), draw(4, 6, seed=1).requires_grad_()
    (logits_distillation(student, teacher, 2.0).sum() + embedding_distillation(student[0], teacher).sum()).backward()
    assert student.grad is not None
    assert teacher.grad is None
