"""Several processes with a part of the batch each give what one process with the whole batch gives."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from losses.criterion import Criterion
from losses.loss import Remembering, TeacherOutput
from losses.options import CenterLossOptions, CirclePairs, MultiSimilarity, SupervisedContrastive
from models.outputs import GLOBAL, PARTS, NetworkSizes, select_images
from tests.losses.conftest import draw_output, draw_teacher, leaves_of, make_criterion
from tests.processes import run_in_processes
from utils.distributed import this_process

NUM_PARTS, DIM, CLASSES = 3, 4, 5
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 0, 3, 3, 4, 4, 1])
SIZES = NetworkSizes(CLASSES, {PARTS: (NUM_PARTS, DIM), GLOBAL: (1, DIM)})
FEATURES = ("global", "parts", "concat")
CENTERS = CenterLossOptions(weight=0.1, on=FEATURES)
OF_ALL_IMAGES = ("triplet", "circle_pairs", "multi_similarity", "supervised_contrastive", "center")
SETTINGS: dict[str, dict[str, Any]] = {
    "batch hard": {"tri_loss_margin": 0.3},
    "soft margin, weighted": {"tri_loss_margin": "soft_margin", "tri_loss_adaptive_weight": True},
    "CircleSoftmax": {"tri_loss_margin": 0.3, "classification_loss": "circle"},
    "ArcFace": {"tri_loss_margin": 0.3, "classification_loss": "arcface"},
    "pairs": {
        "tri_loss_margin": 0.3,
        "circle_pairs": CirclePairs(weight=1.0, on=FEATURES),
        "multi_similarity": MultiSimilarity(weight=1.0, on=FEATURES, of="embeddings"),
        "supervised_contrastive": SupervisedContrastive(weight=1.0, on=FEATURES),
    },
    "centers": {"tri_loss_margin": 0.3, "tri_loss_of": "embeddings", "center_loss": CENTERS},
    "stripes drawn": {"tri_loss_margin": 0.3, "random_drop_branches": 2, "pcb_n_parts": NUM_PARTS, "seed": 3},
    "hardest stripe": {"tri_loss_margin": 0.3, "update_max_loss_branch": True},
}
OTHERS: dict[str, Any] = {
    "tri_loss_on": FEATURES,
    "softmax_margin": 0.2,
    "focal_gamma": 2.0,
    "lambda_logits": 0.5,
    "lambda_embedding": 0.25,
    "sizes": SIZES,
    "teacher_dim": (NUM_PARTS + 1) * DIM,
}


class Seen(NamedTuple):
    """What a criterion gave for some images."""

    losses: dict[str, float]
    metrics: dict[str, float]
    gradients: dict[str, Tensor]
    """Of each leaf, (P, B, ...)."""


Results = list[tuple[dict[str, list[Seen]], Seen]]
"""Of each process: for each setting what each step gave, and a step without triplets of all images."""


def make(name: str, *, gather: bool) -> Criterion:
    return make_criterion(**OTHERS, **SETTINGS[name], gather_embeddings=gather).double()


def look(criterion: Criterion, where: slice, step: int) -> Seen:
    """The losses of a part of the batch, whose outputs are drawn anew for each step, and their sum's gradients."""
    output = draw_output(SIZES, len(LABELS), dtype=torch.float64, seed=step)
    teacher = draw_teacher(len(LABELS), (NUM_PARTS + 1) * DIM, CLASSES, seed=step)
    taught = TeacherOutput(*(values[where] for values in teacher))
    own = select_images(output, where)
    losses, metrics = criterion(own, LABELS[where], teacher=taught, updated_parts=criterion.draw_parts(step))
    torch.stack(list(losses.values())).sum().backward()
    for part in criterion.modules():
        if isinstance(part, Remembering):
            part.remember()
    return Seen(
        {name: loss.item() for name, loss in losses.items()},
        {name: measure.item() for name, measure in metrics.items()},
        {
            f"{name} {what}": leaf.grad[:, where]
            for name, branch in output.items()
            for what, leaf in leaves_of(branch).items()
            if leaf.grad is not None
        },
    )


STEPS, WORLD = 4, 3


def look_at_own_part() -> tuple[dict[str, list[Seen]], Seen]:
    """All settings with triplets of all images, and the first without."""
    own = this_process().share(len(LABELS))
    criteria = {name: make(name, gather=True) for name in SETTINGS}
    every = {name: [look(criterion, own, step) for step in range(STEPS)] for name, criterion in criteria.items()}
    return every, look(make("batch hard", gather=False), own, 0)


@pytest.fixture(scope="module")
def results() -> Results:
    return run_in_processes(look_at_own_part, WORLD)


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_and_gradients_are_those_of_one_process_with_the_whole_batch(results: Results, name: str) -> None:
    updated, criterion = set(), make(name, gather=False)
    for step in range(STEPS):
        whole = look(criterion, slice(None), step)
        seen = [every[name][step] for every, _ in results]
        for loss, value in whole.losses.items():
            own = [each.losses[loss] for each in seen]
            assert sum(own) / WORLD == pytest.approx(value, rel=1e-9), loss
            if loss.startswith(OF_ALL_IMAGES):
                assert own == [pytest.approx(value, rel=1e-9)] * WORLD, loss
        accuracy = sum(each.metrics.pop("accuracy") for each in seen) / WORLD
        assert accuracy == pytest.approx(whole.metrics.pop("accuracy"))
        assert all(each.metrics == pytest.approx(whole.metrics, rel=1e-6) for each in seen)
        for leaf, gradient in whole.gradients.items():
            # Of the mean over the processes, as each row is in one process only.
            found = torch.cat([each.gradients[leaf] for each in seen], dim=1) / WORLD
            torch.testing.assert_close(found, gradient, rtol=0, atol=1e-12)
        updated.add(tuple(whole.gradients["parts logits"].flatten(1).any(1).tolist()))
    # Which stripes are updated changes, so that processes that choose on their own would have been seen.
    assert (len(updated) > 1) == (name in ("stripes drawn", "hardest stripe"))


def test_without_gathering_each_process_forms_triplets_of_its_own(results: Results) -> None:
    for rank, (_, seen) in enumerate(results):
        alone = look(make("batch hard", gather=False), slice(4 * rank, 4 * rank + 4), 0)
        assert seen.losses == alone.losses
        assert seen.metrics == alone.metrics
    assert len({seen.losses["triplet_global"] for _, seen in results}) == WORLD
