import math
from collections import Counter

import numpy as np
import pytest

from data.options import BatchSampling, DataOptions
from data.samplers import epoch_batches, pk_batches, random_batches
from utils.distributed import Dist

LABELS = [label for label in range(10) for _ in range(3 + label)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("num_images", "batch_size"), [(12, 4), (13, 4), (15, 4), (4, 4), (5, 4)])
def test_random_batches_are_full_and_show_every_image(
    num_images: int, batch_size: int, rng: np.random.Generator
) -> None:
    batches = random_batches(num_images, batch_size, rng)
    assert all(len(batch) == batch_size == len(set(batch)) for batch in batches)
    counts = Counter(index for batch in batches for index in batch)
    assert set(counts) == set(range(num_images))
    # Only the last batch is filled up, so that few images are seen twice.
    assert sum(counts.values()) - num_images < batch_size


def test_a_pk_batch_holds_p_identities_with_k_different_images_each(rng: np.random.Generator) -> None:
    batches = pk_batches(LABELS, 4, 3, rng)
    assert len(batches) == round(len(LABELS) / 12)
    for batch in batches:
        assert len(set(batch)) == 12
        groups = [{LABELS[index] for index in batch[first : first + 3]} for first in range(0, 12, 3)]
        assert all(len(group) == 1 for group in groups)
        assert len(set.union(*groups)) == 4


def test_pk_sampling_uses_identities_and_their_images_equally_often(rng: np.random.Generator) -> None:
    batches = pk_batches(LABELS * 20, 4, 3, rng)
    indices = [index for batch in batches for index in batch]
    by_label = Counter((LABELS * 20)[index] for index in indices)
    assert set(by_label) == set(LABELS)
    assert max(by_label.values()) - min(by_label.values()) <= 3
    for label in range(10):
        counts = Counter(index for index in indices if (LABELS * 20)[index] == label)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_pk_sampling_of_every_image_draws_identities_by_their_numbers_of_images(rng: np.random.Generator) -> None:
    labels = [label for label in range(12) for _ in range(2 + 4 * label)]
    batches = pk_batches(labels, 4, 4, rng, every_image=True)
    assert len(batches) == round(len(labels) / 16)
    for batch in batches:
        groups = [[labels[index] for index in batch[first : first + 4]] for first in range(0, 16, 4)]
        assert [len(set(group)) for group in groups] == [1, 1, 1, 1]
        assert len({group[0] for group in groups}) == 4
        # All different, but for the identity of two images.
        assert all(len(set(batch[4 * place :][:4])) == min(4, 2 + 4 * group[0]) for place, group in enumerate(groups))
    counts = Counter(index for batch in batches for index in batch)
    seen = len(counts) / len(labels)
    equally = Counter(index for batch in pk_batches(labels, 4, 4, rng) for index in batch)
    # Without it the images of the large identities are left out.
    assert len(equally) / len(labels) < 0.8 < 0.9 < seen
    # Images of one identity are used equally often, and identities by their numbers of groups.
    many = pk_batches(labels * 10, 4, 4, rng, every_image=True)
    uses = Counter(index for batch in many for index in batch)
    for label in range(12):
        counts_of = [uses[index] for index in range(len(labels) * 10) if (labels * 10)[index] == label]
        assert max(counts_of) - min(counts_of) <= 1


def test_draws_are_of_different_things_and_as_often_as_their_counts(rng: np.random.Generator) -> None:
    labels = [0] * 8 + [1] * 8 + [2] * 4 + [3] * 4
    groups = Counter(
        labels[batch[first]] for batch in pk_batches(labels, 2, 4, rng, every_image=True) for first in (0, 4)
    )
    assert groups == {0: 2, 1: 2, 2: 1, 3: 1}
    # All take part in every batch, although their numbers differ.
    assert all({labels[i] for i in batch} == {0, 1, 2, 3} for batch in pk_batches(labels, 4, 1, rng, every_image=True))


def test_identities_with_few_images_repeat_them_evenly(rng: np.random.Generator) -> None:
    for batch in pk_batches([0, 1, 1, 2, 2, 2], 3, 5, rng):
        counts = Counter(batch)
        assert counts[0] == 5
        assert sorted((counts[1], counts[2])) == [2, 3]
        assert sorted(counts[index] for index in (3, 4, 5)) == [1, 2, 2]


def test_p_may_be_the_number_of_identities(rng: np.random.Generator) -> None:
    assert all(sorted({LABELS[i] for i in batch}) == list(range(10)) for batch in pk_batches(LABELS, 10, 2, rng))


def test_what_cannot_be_sampled_is_an_error(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="P 11"):
        pk_batches(LABELS, 11, 2, rng)
    with pytest.raises(ValueError, match="P 11"):
        pk_batches(LABELS, 11, 2, rng, every_image=True)
    with pytest.raises(ValueError, match="batch_size 6"):
        random_batches(5, 6, rng)


@pytest.mark.parametrize("class_balanced", [True, False])
def test_every_epoch_has_an_order_of_its_own_that_follows_from_the_seed(class_balanced: bool) -> None:
    sampling = BatchSampling(class_balanced=class_balanced, P=4, K=2)
    options = DataOptions(batch_size=8, batch_sampling_params=sampling)
    epochs = [epoch_batches(options, LABELS, seed, epoch) for seed in (1, 2) for epoch in range(4)]
    assert epochs == [epoch_batches(options, LABELS, seed, epoch) for seed in (1, 2) for epoch in range(4)]
    assert len({str(batches) for batches in epochs}) == 8
    for batches in epochs:
        assert {LABELS[index] for batch in batches for index in batch} == set(LABELS)
        for batch in batches:
            assert len(batch) == 8
            if class_balanced:
                assert sorted(Counter(LABELS[index] for index in batch).values()) == [2, 2, 2, 2]


@pytest.mark.parametrize("class_balanced", [True, False])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_processes_share_one_order_of_batches(class_balanced: bool, accumulate: int) -> None:
    sampling = BatchSampling(class_balanced=class_balanced, P=2, K=2)
    options = DataOptions(batch_size=4, batch_sampling_params=sampling)
    labels = LABELS * 3
    batches = epoch_batches(options, labels, 1, 5, world_size=3, accumulate=accumulate)
    assert len(batches) % accumulate == 0
    steps = len(labels) / (12 * accumulate)
    assert len(batches) // accumulate == (round(steps) if class_balanced else math.ceil(steps))
    for batch in batches:
        parts = [batch[Dist(rank, 3).share(len(batch))] for rank in range(3)]
        assert [len(part) for part in parts] == [4, 4, 4]
        if class_balanced:
            identities = [{labels[index] for index in part} for part in parts]
            assert [len(each) for each in identities] == [2, 2, 2]
            assert len(set.union(*identities)) == 6  # none is in two processes
    larger = DataOptions(batch_size=12, batch_sampling_params=sampling.model_copy(update={"P": 6}))
    assert batches == epoch_batches(larger, labels, 1, 5, accumulate=accumulate)
