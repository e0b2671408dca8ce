"""Which images make up each batch of an epoch. An epoch's order depends on nothing but the seed and the epoch."""

from collections.abc import Sequence

import numpy as np

from data.options import DataOptions


def epoch_batches(
    options: DataOptions, labels: Sequence[int], seed: int, epoch: int, world_size: int = 1, accumulate: int = 1
) -> list[list[int]]:
    """The batches of one epoch as indices into `labels`, each over all processes.

    The order is drawn from (seed, epoch) alone, so a resumed run meets the same batches without any saved state, and
    all processes know each other's. A process takes its part of every batch, in the order of the ranks; with P x K
    sampling that is P identities which no other process has.

    Args:
        options: how large the batch of a process is, and how it is drawn.
        labels: class of each training image.
        seed, epoch: what the order follows from.
        world_size: processes; a batch here is so many times as large as `options` say.
        accumulate: the number of batches is a multiple of it.
    """
    rng = np.random.default_rng([seed, epoch])
    sampling = options.batch_sampling_params
    if sampling.class_balanced:
        return pk_batches(labels, world_size * sampling.P, sampling.K, rng, accumulate)
    return random_batches(len(labels), world_size * options.batch_images, rng, accumulate)


def random_batches(num_images: int, batch_size: int, rng: np.random.Generator, accumulate: int = 1) -> list[list[int]]:
    """Every image once in random order; what the last batches lack is taken from the front of that order.

    There are as few batches as hold all images, rounded up to a multiple of `accumulate`.
    """
    if batch_size > num_images:
        raise ValueError(f"batch_size {batch_size} exceeds the number of images {num_images}")
    order = rng.permutation(num_images)
    num_batches = -(-num_images // (batch_size * accumulate)) * accumulate
    return np.resize(order, (num_batches, batch_size)).tolist()


def pk_batches(labels: Sequence[int], P: int, K: int, rng: np.random.Generator, accumulate: int = 1) -> list[list[int]]:
    """P x K batches: P identities, K images of each, the images of an identity side by side.

    An epoch has as many batches, a multiple of `accumulate`, as bring it nearest to the size of the set. Identities,
    and the images of each, are dealt from shuffled decks, so all are used equally often; an identity with fewer than K
    images has them repeated.

    Source: Hermans et al. 2017, section 2.
    """
    images_of: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        images_of.setdefault(label, []).append(index)
    if len(images_of) < P:
        raise ValueError(f"P {P} exceeds the number of identities {len(images_of)}")
    identities = _Deck(sorted(images_of), rng)
    images = {label: _Deck(indices, rng) for label, indices in images_of.items()}
    num_batches = max(1, round(len(labels) / (P * K * accumulate))) * accumulate
    return [[index for label in identities.deal(P) for index in images[label].deal(K)] for _ in range(num_batches)]


class _Deck:
    """A shuffled deck of cards. No card is dealt twice before all have been, and no hand holds a card twice unless
    it is larger than the deck."""

    def __init__(self, cards: Sequence[int], rng: np.random.Generator) -> None:
        self.cards = list(cards)
        self.rng = rng
        self.left: list[int] = []

    def deal(self, number: int) -> list[int]:
        """The next cards of the deck, shuffled anew where it runs out."""
        hand: list[int] = []
        while len(hand) < number:
            if not self.left:
                fresh = [self.cards[place] for place in self.rng.permutation(len(self.cards))]
                # Cards already in this hand go to the bottom, so that they come up only when the others are used up.
                # A sort by membership is stable: the rest stays in shuffled order.
                self.left = sorted(fresh, key=hand.__contains__) if len(hand) < len(self.cards) else fresh
            take = number - len(hand)
            hand, self.left = hand + self.left[:take], self.left[take:]
        return hand
