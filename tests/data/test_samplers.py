import math
from collections import Counter

import numpy as np
import pytest

from data.options import BatchSampling, DataOptions
from data.samplers import epoch_batches, pk_batches, random_batches
from data.samples import SOURCE_STRIDE, source_of
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


# Three data sets of 4, 6 and 12 identities, with 2 to 5 images of each by one to three cameras.
BALANCED = [
    (100 * source + identity, SOURCE_STRIDE * source + 1 + image % (1 + identity % 3))
    for source, number in enumerate((4, 6, 12))
    for identity in range(number)
    for image in range(2 + identity % 4)
]
PIDS, CAMIDS = [pid for pid, _ in BALANCED], [camid for _, camid in BALANCED]


def balanced(seed: int, epoch: int, world_size: int = 1, accumulate: int = 1, **options: object) -> list[list[int]]:
    sampling = BatchSampling.model_validate({"class_balanced": True, **options})
    data = DataOptions(batch_sampling_params=sampling)
    return epoch_batches(data, PIDS, seed, epoch, world_size, accumulate, CAMIDS)


@pytest.mark.parametrize("every_image", [False, True])
@pytest.mark.parametrize("world_size", [1, 2])
def test_the_batch_of_each_process_has_as_many_identities_of_each_data_set(world_size: int, every_image: bool) -> None:
    batches = balanced(0, 1, world_size, balance="source", P=6, K=2, every_image=every_image)
    assert len(batches) == round(len(PIDS) / (12 * world_size))
    for batch in batches:
        assert len({PIDS[index] for index in batch}) == 6 * world_size
        for rank in range(world_size):
            own = batch[rank * 12 : rank * 12 + 12]
            assert [source_of(CAMIDS[index]) for index in own] == [0] * 4 + [1] * 4 + [2] * 4
            assert all(PIDS[own[place]] == PIDS[own[place + 1]] for place in range(0, 12, 2))


def test_every_identity_of_a_large_data_set_is_seen_although_a_small_one_is_repeated() -> None:
    batches = [batch for epoch in range(6) for batch in balanced(0, epoch, balance="source", P=6, K=2)]
    counts = Counter(PIDS[index] for batch in batches for index in batch[::2])
    assert counts.keys() == set(PIDS)
    assert min(counts[pid] for pid in range(4)) > max(counts[pid] for pid in range(200, 212))


def test_a_batch_of_one_data_set_and_all_data_sets_in_proportion() -> None:
    batches = [batch for epoch in range(40) for batch in balanced(0, epoch, balance="one_source", P=4, K=2)]
    assert all(len({source_of(CAMIDS[index]) for index in batch}) == 1 for batch in batches)
    assert all(len({PIDS[index] for index in batch}) == 4 for batch in batches)
    counts = Counter(source_of(CAMIDS[batch[0]]) for batch in batches)
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("K", [1, 2, 3, 4, 7])
def test_the_images_of_an_identity_are_of_as_many_cameras_and_as_different_as_can_be(K: int) -> None:
    for batch in (batch for epoch in range(4) for batch in balanced(3, epoch, balance="camera", P=5, K=K)):
        assert len({PIDS[index] for index in batch}) == 5
        for first in range(0, len(batch), K):
            hand = batch[first : first + K]
            own = [index for index, pid in enumerate(PIDS) if pid == PIDS[hand[0]]]
            assert {PIDS[index] for index in hand} == {PIDS[hand[0]]}
            assert len({CAMIDS[index] for index in hand}) == min(K, len({CAMIDS[index] for index in own}))
            # The slow way: take the image and the camera used least, one after the other.
            expected: list[int] = []
            for _ in range(K):
                cameras = [CAMIDS[index] for index in expected]
                expected.append(min(own, key=lambda i: (expected.count(i), cameras.count(CAMIDS[i]))))
            for key in (PIDS, CAMIDS, range(len(PIDS))):
                found, wanted = (Counter(key[index] for index in images) for images in (hand, expected))
                assert sorted(found.values()) == sorted(wanted.values())


def test_each_camera_of_an_identity_is_as_often_the_last() -> None:
    batches = [batch for epoch in range(60) for batch in balanced(0, epoch, balance="camera", P=5, K=3)]
    last = Counter((PIDS[index], CAMIDS[index]) for batch in batches for index in batch[2::3])
    of_three = [pid for pid in set(PIDS) if len({key for key in zip(PIDS, CAMIDS, strict=True) if key[0] == pid}) == 3]
    for pid in of_three:
        counts = [number for (other, _), number in last.items() if other == pid]
        assert len(counts) == 3
        assert min(counts) > sum(counts) / 5
    assert of_three


@pytest.mark.parametrize("balance", ["source", "one_source", "camera"])
def test_balanced_batches_follow_from_seed_and_epoch_and_fill_steps(balance: str) -> None:
    orders = [balanced(seed, epoch, accumulate=4, balance=balance, P=3, K=2) for seed in (0, 1) for epoch in (0, 1)]
    assert orders == [
        balanced(seed, epoch, accumulate=4, balance=balance, P=3, K=2) for seed in (0, 1) for epoch in (0, 1)
    ]
    assert all(len(order) % 4 == 0 for order in orders)
    assert len({str(order) for order in orders}) == 4


def test_batches_that_cannot_be_balanced_are_refused() -> None:
    with pytest.raises(ValueError, match="P 4 is not a multiple of the number of data sets 3"):
        balanced(0, 0, balance="source", P=4, K=2)
    with pytest.raises(ValueError, match="P 5 exceeds the number of identities 4"):
        balanced(0, 0, balance="source", P=15, K=2)
