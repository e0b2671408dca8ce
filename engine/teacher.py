"""The teacher of a distillation: a network trained before, frozen, that looks at the same augmented batch."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from config.params import Params
from data.augmentation.normalisation import Normalisation, normalise_unit, unit_again
from evaluate.core.load_model import Trained, digest_of, find_network, load_trained_network
from losses.loss import TeacherOutput
from models.outputs import concat_branches, mean_logits
from utils.errors import DataError
from utils.precision import at_least_fp32

logger = logging.getLogger(__name__)


class Teacher:
    """A frozen network in evaluation mode.

    Args:
        trained: the network, and its params, which say what images it expects.
        device: where it computes.
        same_cameras: whether the student's cameras are those that it was trained with.
    """

    def __init__(self, trained: Trained, device: torch.device, same_cameras: bool = True) -> None:
        self.params = trained.params
        network = trained.network.requires_grad_(False).eval()
        self.network = network.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.embedding_dim = trained.network.embedding_dim
        self.uses_cameras = same_cameras and bool(trained.network.camids)
        self.digest = digest_of(trained)
        """Identifies the teacher: a run is only resumed with the same."""

    def __call__(self, pixels: Tensor, normalisation: Normalisation, camids: Tensor | None = None) -> TeacherOutput:
        """What the teacher makes of a student's batch.

        Args:
            pixels: (B, 3, H, W) augmented images, normalised for the student.
            normalisation: the student's; the teacher's own, and its own size of image, are brought about here.
            camids: (B,) int64, the cameras, if it uses them.
        """
        with torch.inference_mode():
            pixels = self._as_trained(pixels, normalisation)
            output = self.network(pixels, camids=camids if self.uses_cameras else None)
            embeddings, logits = concat_branches(output, self.network.retrieval_of), mean_logits(output)
        # Tensors made in inference mode cannot take part in a backward pass; their copies can.
        return TeacherOutput(embeddings.clone(), logits.clone())

    def _as_trained(self, pixels: Tensor, normalisation: Normalisation) -> Tensor:
        own, resize = self.params.data_augmentation.normalisation, self.params.eval_resize
        if own != normalisation:
            pixels = normalise_unit(unit_again(pixels, normalisation), own)
        if pixels.shape[2:] == resize[:2]:
            return pixels
        # On a CPU torch does not resize half precision with antialiasing.
        return F.interpolate(at_least_fp32(pixels), resize[:2], mode=resize.interpolation, antialias=True)


def load_teacher(params: Params, pids: Sequence[int], device: torch.device) -> Teacher | None:
    """The teacher that `distillation.teacher` names; None where there is none.

    Args:
        params: of the student.
        pids: sorted pids the student is trained on.
        device: where the teacher computes.

    Raises:
        DataError: there is no such checkpoint, or it knows other identities than its logits are to teach.
    """
    named = params.distillation.teacher
    if not named:
        return None
    path = find_network(named, "distillation.teacher", "train the teacher first")
    trained = load_trained_network(path)
    same_data = list(trained.labels) == list(pids)
    if params.distillation.lambda_logits and not same_data:
        raise DataError(
            f"distillation.teacher: {path} was trained on other identities ({len(trained.labels)}, here {len(pids)}), "
            "so its classes are not those of the student; set distillation.lambda_logits to 0 and teach embeddings only"
        )
    teacher = Teacher(trained, device, same_cameras=same_data)
    model = trained.params.model_params.model
    logger.info("teacher %s: %s with an embedding of %d", path, model, teacher.embedding_dim)
    return teacher
