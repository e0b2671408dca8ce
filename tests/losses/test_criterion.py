import pytest
import torch
from torch.nn import functional as F

from losses.criterion import Criterion, build_criterion
from losses.options import LossOptions
from losses.triplet import batch_hard, triplet_loss
from utils.branches import GLOBAL, PARTS, BranchOutput

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture
def output() -> dict[str, BranchOutput]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    return {
        PARTS: BranchOutput(draw(3, 6, 4), draw(3, 6, 4), draw(3, 6, 5)),
        GLOBAL: BranchOutput(draw(1, 6, 8), draw(1, 6, 8), draw(1, 6, 5)),
    }


def test_parts_are_summed_and_weighted(output: dict[str, BranchOutput]) -> None:
    terms = Criterion(lambda_cls=0.5)(output, LABELS)
    expected = 0.5 * sum(F.cross_entropy(logits, LABELS).item() for logits in output[PARTS].logits)
    assert set(terms) == {"softmax_parts", "softmax_global"}
    assert terms["softmax_parts"].item() == pytest.approx(expected, rel=1e-6)
    assert all(term.shape == () for term in terms.values())


def test_each_choice_of_triplet_compares_its_own_features(output: dict[str, BranchOutput]) -> None:
    criterion = Criterion(lambda_tri=2.0, margin=0.3, triplet_on=("global", "parts", "concat"))
    terms = criterion(output, LABELS)
    parts = output[PARTS].features
    concat = torch.cat(list(parts), dim=1)[None]
    for name, features in (("global", output[GLOBAL].features), ("parts", parts), ("concat", concat)):
        expected = 2.0 * triplet_loss(batch_hard(features, LABELS), 0.3).mean().item()
        assert terms[f"triplet_{name}"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["global", "parts", "concat"])
def test_a_triplet_reaches_only_the_branch_it_is_on(output: dict[str, BranchOutput], name: str) -> None:
    terms = Criterion(lambda_cls=0.0, margin=0.3, triplet_on=(name,))(output, LABELS)  # pyright: ignore[reportArgumentType]
    assert set(terms) == {f"triplet_{name}"}
    terms[f"triplet_{name}"].backward()
    reached = {branch for branch, values in output.items() if values.features.grad is not None}
    assert reached == {GLOBAL if name == "global" else PARTS}
    assert all(values.logits.grad is None for values in output.values())


def test_margin_zero_means_no_triplet() -> None:
    assert build_criterion(LossOptions()).triplet_on == ()
    assert build_criterion(LossOptions(tri_loss_margin=0.3, tri_loss_lambda_tri=0.0)).triplet_on == ()


def test_options_reach_the_losses() -> None:
    options = LossOptions(
        tri_loss_margin="soft_margin",
        tri_loss_lambda_tri=2.0,
        tri_loss_lambda_cls=3.0,
        tri_loss_on=("parts",),
        label_smoothing=0.1,
    )
    built = build_criterion(options)
    assert (built.margin, built.lambda_tri, built.lambda_cls) == ("soft_margin", 2.0, 3.0)
    assert (built.triplet_on, built.label_smoothing) == (("parts",), 0.1)
