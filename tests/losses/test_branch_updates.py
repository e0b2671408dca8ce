import itertools
from collections import Counter, defaultdict
from typing import Any

import pytest
import torch

from losses.branch_updates import detach_branch, draw_updated_parts, hardest_part
from losses.criterion import Criterion
from losses.generated import GeneratedWeights
from losses.loss import GeneratedOutput
from models.outputs import GLOBAL, PARTS, BranchOutput, ClassScores, NetworkSizes, concat_branches
from tests.losses.conftest import draw_output, draw_teacher, leaves_of, make_criterion

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
NUM_PARTS = 4
SIZES = NetworkSizes(5, {PARTS: (NUM_PARTS, 3), GLOBAL: (1, 3)})
DRAWN: dict[str, Any] = {"pcb_n_parts": NUM_PARTS, "random_drop_branches": 2}


def exact_shares(num_parts: int, draws: int) -> dict[frozenset[int], float]:
    """Probability of each set of updated parts, by counting all sequences of draws."""
    shares: defaultdict[frozenset[int], float] = defaultdict(float)
    for sequence in itertools.product(range(num_parts), repeat=draws):
        kept = frozenset(range(num_parts)) - set(sequence)
        for outcome in [kept] if kept else [frozenset([part]) for part in range(num_parts)]:
            shares[outcome] += num_parts**-draws / (1 if kept else num_parts)
    return shares


@pytest.mark.parametrize(("num_parts", "draws"), [(1, 1), (2, 1), (2, 3), (3, 2), (3, 5), (4, 4), (6, 1), (6, 6)])
def test_parts_are_left_out_with_the_exact_probabilities(num_parts: int, draws: int) -> None:
    generator = torch.Generator().manual_seed(10 * num_parts + draws)
    counts: Counter[frozenset[int]] = Counter()
    for _ in range(10_000):
        keep = draw_updated_parts(num_parts, draws, generator)
        counts[frozenset(keep.nonzero().flatten().tolist())] += 1
    shares = exact_shares(num_parts, draws)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert counts.keys() <= shares.keys()
    assert frozenset() not in counts
    for kept, share in shares.items():
        spread = (10_000 * share * (1 - share)) ** 0.5
        assert abs(counts[kept] - 10_000 * share) <= 4.5 * spread + 1, kept


@pytest.mark.parametrize("hardest", range(3))
def test_the_hardest_part_has_the_highest_loss(hardest: int) -> None:
    losses = torch.ones(3)
    losses[hardest] = 2.0
    assert hardest_part(losses).tolist() == [part == hardest for part in range(3)]
    assert hardest_part(torch.ones(3)).tolist() == [True, False, False]


class Stripes:
    """A parts branch and a global one."""

    def __init__(self) -> None:
        self.output = draw_output(SIZES, spectral=True)
        self.teacher = draw_teacher(6, 15, 5)

    def alone(self, part: int) -> BranchOutput:
        """One stripe, as its classifier sees it."""
        leaves = {what: leaf.detach()[part, None] for what, leaf in leaves_of(self.output[PARTS]).items()}
        scores = ClassScores(leaves["logits"], leaves["scale"])
        return BranchOutput(leaves["features"], leaves["embeddings"], scores)

    def reached(self, name: str) -> dict[str, list[bool]]:
        """Which parts of which tensor have a gradient that is not zero; only the tensors of which any part has."""
        grads = {what: leaf.grad for what, leaf in leaves_of(self.output[name]).items()}
        return {
            what: grad.flatten(1).any(1).tolist() for what, grad in grads.items() if grad is not None and grad.any()
        }


# For every loss of the criterion: settings that have it, and the tensors its gradient reaches.
LOSSES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "softmax_parts": ({"softmax_margin": 0.2}, {"logits", "scale"}),
    "softmax_parts_spectral": ({"softmax_margin": 0.2}, {"spectral logits", "spectral scale"}),
    "triplet_parts": ({"tri_loss_margin": "soft_margin", "tri_loss_on": ("parts",)}, {"features"}),
    "triplet_concat": (
        {"tri_loss_margin": "soft_margin", "tri_loss_on": ("concat",), "tri_loss_adaptive_weight": True},
        {"features"},
    ),
    "distillation_logits": ({"lambda_logits": 1.0}, {"logits"}),
    "distillation_embedding": ({"lambda_embedding": 1.0, "sizes": SIZES, "teacher_dim": 15}, {"embeddings"}),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_reaches_a_stripe_left_out_and_each_keeps_its_value(loss: str) -> None:
    settings, reaches = LOSSES[loss]
    keep = [False, True, False, True]
    all_updated, some_updated = Stripes(), Stripes()
    complete = make_criterion(**settings)(all_updated.output, LABELS, teacher=all_updated.teacher).losses[loss]
    criterion = make_criterion(**settings, **DRAWN)
    partial = criterion(
        some_updated.output, LABELS, teacher=some_updated.teacher, updated_parts=torch.tensor(keep)
    ).losses[loss]
    assert torch.equal(partial, complete)
    complete.backward()
    partial.backward()
    assert all_updated.reached(PARTS) == {what: [True] * NUM_PARTS for what in reaches}
    assert some_updated.reached(PARTS) == dict.fromkeys(reaches, keep)
    # What is kept gets the gradient it would have had anyway.
    all_leaves, some_leaves = leaves_of(all_updated.output[PARTS]), leaves_of(some_updated.output[PARTS])
    for what in reaches:
        expected, actual = all_leaves[what].grad, some_leaves[what].grad
        assert expected is not None
        assert actual is not None
        assert torch.equal(actual[keep], expected[keep])
    if loss.startswith("distillation"):
        assert some_updated.reached(GLOBAL) == {what: [True] for what in reaches}


@pytest.mark.parametrize(("loss", "reaches"), [
    ("outliers", {"logits"}), ("generated", {"logits", "scale"}), ("consistency", {"embeddings"}),
])  # fmt: skip
def test_a_stripe_left_out_learns_nothing_from_generated_images_either(loss: str, reaches: set[str]) -> None:
    keep = [False, True, False, True]
    real, made = Stripes(), Stripes()
    with torch.no_grad():
        leaves_of(made.output[PARTS])["embeddings"].neg_()
    settings: dict[str, Any] = {"softmax_margin": 0.2, "generated": GeneratedWeights(1.0, 1.0)}
    labels, sources = (None, None) if loss == "outliers" else (LABELS, torch.arange(6).flip(0))
    generated = GeneratedOutput(made.output, labels, sources)
    complete, found = (
        make_criterion(**settings, **draws)(
            real.output, LABELS, generated=generated, updated_parts=torch.tensor(keep) if draws else None
        ).losses[loss]
        for draws in ({}, DRAWN)
    )
    assert torch.equal(found, complete)
    found.backward()
    assert made.reached(PARTS) == dict.fromkeys(reaches, keep)
    assert made.reached(GLOBAL) == {what: [True] for what in reaches}
    # Nor do real images, of any branch, follow those that were made from them.
    assert real.reached(PARTS) == real.reached(GLOBAL) == {}
    assert concat_branches(real.output, "embeddings").requires_grad


def updated_stripes(criterion: Criterion, step: int) -> tuple[bool, ...]:
    """Which stripes a step updates; the global branch is updated always."""
    stripes = Stripes()
    losses = criterion(stripes.output, LABELS, updated_parts=criterion.draw_parts(step)).losses
    torch.stack([*losses.values()]).sum().backward()
    kept = stripes.reached(PARTS)["logits"]
    assert stripes.reached(PARTS)["spectral logits"] == kept
    assert stripes.reached(GLOBAL) == {"logits": [True], "spectral logits": [True]}
    return tuple(kept)


@pytest.mark.parametrize("draws", [0, 1, 4, 50])
def test_each_step_draws_anew_and_updates_the_global_branch_always(draws: int) -> None:
    criterion = make_criterion(random_drop_branches=draws, pcb_n_parts=NUM_PARTS)
    seen = [updated_stripes(criterion, step) for step in range(20)]
    most = NUM_PARTS - 1 if draws else NUM_PARTS
    assert all(max(1, NUM_PARTS - draws) <= sum(kept) <= most for kept in seen)
    assert len(set(seen)) == 1 if draws == 0 else len(set(seen)) > 1


def test_the_stripes_follow_from_seed_and_step_alone() -> None:
    first, second, other = (
        [updated_stripes(make_criterion(**DRAWN, seed=seed), step) for step in range(20)] for seed in (5, 5, 6)
    )
    assert first == second
    assert first != other
    torch.manual_seed(0)
    state = torch.get_rng_state()
    updated_stripes(make_criterion(**DRAWN), 0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("settings", [{}, {"softmax_margin": 0.9}, {"focal_gamma": 4.0}, {"label_smoothing": 0.9}])
def test_the_stripe_with_the_highest_classification_loss_is_the_one_updated(settings: dict[str, Any]) -> None:
    updated = set()
    for scale in torch.linspace(0.1, 20, 30).tolist():
        stripes = Stripes()
        with torch.no_grad():
            leaves_of(stripes.output[PARTS])["logits"][1] *= scale
        updating = make_criterion(update_max_loss_branch=True, **settings)
        updating(stripes.output, LABELS).losses["softmax_parts"].backward()
        losses = [
            make_criterion(**settings)({PARTS: stripes.alone(part)}, LABELS).losses["softmax_parts"].item()
            for part in range(NUM_PARTS)
        ]
        kept = [loss == max(losses) for loss in losses]
        assert stripes.reached(PARTS)["logits"] == kept
        updated.add(tuple(kept))
    assert len(updated) > 1


def test_a_branch_without_scale_or_spectral_transform_stays_without() -> None:
    branch = BranchOutput(torch.ones(2, 1, 1), torch.ones(2, 1, 1), ClassScores(torch.ones(2, 1, 1), None))
    kept = detach_branch(branch, torch.tensor([True, False]))
    assert kept.scores.scale is None
    assert kept.spectral is None


def test_two_ways_to_choose_the_stripe_are_refused() -> None:
    with pytest.raises(ValueError, match="no random_drop_branches"):
        make_criterion(random_drop_branches=1, update_max_loss_branch=True)
    with pytest.raises(ValueError, match="needs a classification loss"):
        make_criterion(tri_loss_lambda_cls=0.0, update_max_loss_branch=True)


def test_drawn_stripes_must_be_passed_on() -> None:
    output = draw_output(SIZES)
    with pytest.raises(ValueError, match="draw_parts"):
        make_criterion(**DRAWN)(output, LABELS)
    with pytest.raises(ValueError, match="draw_parts"):
        make_criterion()(output, LABELS, updated_parts=torch.ones(NUM_PARTS, dtype=torch.bool))
