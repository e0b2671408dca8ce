"""Learning from a teacher: its class probabilities and its embeddings."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.outputs import BranchOutput, concat_embeddings
from utils.precision import at_least_fp32


class TeacherOutput(NamedTuple):
    """What a frozen teacher says of the images of a step."""

    embeddings: Tensor
    """(B, D_t), those of retrieval."""
    logits: Tensor
    """(B, N), class scores of the whole network."""


def logits_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)) of every part and image.

    The square keeps the gradient's size independent of the temperature.

    Args:
        student: logits (P, B, N).
        teacher: logits (B, N), the same for all parts; gets no gradient.
        temperature: T.

    Returns:
        (P, B) float32.

    Source: Hinton et al. 2015, arXiv 1503.02531, section 2.
    """
    wanted = F.log_softmax(at_least_fp32(teacher.detach()) / temperature, dim=-1)
    given = F.log_softmax(at_least_fp32(student) / temperature, dim=-1)
    return temperature**2 * (wanted.exp() * (wanted - given)).sum(-1)


def embedding_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared Euclidean distance of the embeddings at unit length, (B, D) and (B, D) -> (B,) float32.

    The teacher gets no gradient.
    """
    difference = F.normalize(at_least_fp32(student), dim=-1) - F.normalize(at_least_fp32(teacher.detach()), dim=-1)
    return difference.square().sum(-1)


class DistillationLoss(nn.Module):
    """What a network learns from its teacher.

    Args:
        lambda_logits, lambda_embedding: weights of the two terms; 0 leaves one out.
        temperature: of the logits' term.
        embedding_dim, teacher_dim: sizes of the two whole embeddings. Where they differ, and the embedding is
            distilled, the student's goes through a `projection` trained with it.
    """

    def __init__(
        self,
        lambda_logits: float = 0.0,
        lambda_embedding: float = 0.0,
        temperature: float = 4.0,
        embedding_dim: int = 0,
        teacher_dim: int = 0,
    ) -> None:
        super().__init__()
        self.lambda_logits = lambda_logits
        self.lambda_embedding = lambda_embedding
        self.temperature = temperature
        projects = lambda_embedding and embedding_dim != teacher_dim
        self.projection = nn.Linear(embedding_dim, teacher_dim, bias=False) if projects else None

    def forward(self, output: Mapping[str, BranchOutput], teacher: TeacherOutput) -> dict[str, Tensor]:
        """Outputs of the branches and the teacher's -> weighted scalars by name.

        All parts of all branches learn the teacher's classes, and are summed as for classification.
        """
        terms: dict[str, Tensor] = {}
        if self.lambda_logits:
            logits = torch.cat([branch.scores.logits for branch in output.values()])
            divergence = logits_distillation(logits, teacher.logits, self.temperature)
            terms["distillation_logits"] = self.lambda_logits * divergence.mean(1).sum()
        if self.lambda_embedding:
            student = at_least_fp32(concat_embeddings(output))
            student = student if self.projection is None else self.projection(student)
            distance = embedding_distillation(student, teacher.embeddings)
            terms["distillation_embedding"] = self.lambda_embedding * distance.mean()
        return terms
