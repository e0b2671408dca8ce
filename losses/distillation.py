"""Knowledge distillation from a teacher: its class probabilities and its embeddings."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.loss import Loss, Losses, LossInputs
from losses.options import Distillation
from models.outputs import FeatureKind, NetworkSizes, concat_branches
from utils.precision import at_least_fp32


def logits_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)) of every part and image.

    The factor T^2 makes the gradient's size independent of the temperature.

    Args:
        student: logits (P, B, N).
        teacher: logits (B, N), the same for all parts; without gradient.
        temperature: T.

    Returns:
        (P, B) float32.

    Source: Hinton et al. 2015, arXiv 1503.02531, section 2.
    """
    teacher_log_probs = F.log_softmax(at_least_fp32(teacher.detach()) / temperature, dim=-1)
    student_log_probs = F.log_softmax(at_least_fp32(student) / temperature, dim=-1)
    return temperature**2 * (teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)).sum(-1)


def embedding_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared Euclidean distance of the normalised embeddings: (B, D) and (B, D), without gradient -> (B,)."""
    difference = F.normalize(at_least_fp32(student), dim=-1) - F.normalize(at_least_fp32(teacher.detach()), dim=-1)
    return difference.square().sum(-1)


class DistillationLoss(Loss):
    """Distillation of logits and embedding.

    Args:
        lambda_logits, lambda_embedding: weights of the two losses; 0 leaves one out.
        temperature: of the logits.
        embedding_dim, teacher_dim: sizes of the whole embeddings. If the embedding is distilled and they differ, the
            student's goes through a linear `projection`, trained with the network.
        retrieval_of: what the student's embedding consists of.
    """

    def __init__(
        self,
        lambda_logits: float = 0.0,
        lambda_embedding: float = 0.0,
        temperature: float = 4.0,
        embedding_dim: int = 0,
        teacher_dim: int = 0,
        retrieval_of: FeatureKind = "embeddings",
    ) -> None:
        super().__init__("distillation", ["teacher"], covers_network=lambda_logits > 0)
        self.lambda_logits = lambda_logits
        self.lambda_embedding = lambda_embedding
        self.temperature = temperature
        self.retrieval_of: FeatureKind = retrieval_of
        projects = lambda_embedding and embedding_dim != teacher_dim
        self.projection = nn.Linear(embedding_dim, teacher_dim, bias=False) if projects else None

    def forward(self, inputs: LossInputs) -> Losses:
        """All parts of all branches learn the teacher's class scores, and are summed as for classification."""
        output, teacher = inputs.output, inputs.teacher
        assert teacher is not None
        losses: dict[str, Tensor] = {}
        if self.lambda_logits:
            logits = torch.cat([branch.scores.logits for branch in output.values()])
            divergence = logits_distillation(logits, teacher.logits, self.temperature)
            losses["distillation_logits"] = self.lambda_logits * divergence.mean(1).sum()
        if self.lambda_embedding:
            student = at_least_fp32(concat_branches(output, self.retrieval_of))
            student = student if self.projection is None else self.projection(student)
            distance = embedding_distillation(student, teacher.embeddings)
            losses["distillation_embedding"] = self.lambda_embedding * distance.mean()
        return Losses(losses, {})


def build_distillation(
    options: Distillation, sizes: NetworkSizes | None, teacher_dim: int, retrieval_of: FeatureKind = "embeddings"
) -> DistillationLoss | None:
    """The distillation that the params describe; None: it is off."""
    if not (options.lambda_logits or options.lambda_embedding):
        return None
    embedding_dim = 0 if sizes is None else sizes.embedding_dim
    weights = options.lambda_logits, options.lambda_embedding
    return DistillationLoss(*weights, options.temperature, embedding_dim, teacher_dim, retrieval_of)
