"""Samples the images of each batch of an epoch; the order depends on the seed and the epoch only."""

from collections.abc import Sequence

import numpy as np

from data.options import DataOptions


def epoch_batches(
    options: DataOptions, labels: Sequence[int], seed: int, epoch: int, world_size: int = 1, accumulate: int = 1
) -> list[list[int]]:
    """The batches of one epoch as indices into `labels`, each for all processes together.

    The order is drawn from (seed, epoch), so a resumed run sees the same batches without any saved state, and every
    process knows the batches of the others. A process takes its part of every batch, in the order of the ranks; with
    P x K sampling that is P identities which no other process has.

    Args:
        options: size of the batch of a process, and how it is sampled.
        labels: class of each training image.
        seed, epoch: determine the order.
        world_size: number of processes; the batches here are larger by this factor.
        accumulate: the number of batches is a multiple of it.
    """
    rng = np.random.default_rng([seed, epoch])
    sampling = options.batch_sampling_params
    if sampling.class_balanced:
        P = world_size * sampling.P
        return pk_batches(labels, P, sampling.K, rng, accumulate, every_image=sampling.every_image)
    return random_batches(len(labels), world_size * options.batch_images, rng, accumulate)


def random_batches(num_images: int, batch_size: int, rng: np.random.Generator, accumulate: int = 1) -> list[list[int]]:
    """Every image once in random order; the last batches are filled up from the beginning of that order.

    The number of batches is the smallest multiple of `accumulate` that holds all images.
    """
    if batch_size > num_images:
        raise ValueError(f"batch_size {batch_size} exceeds the number of images {num_images}")
    order = rng.permutation(num_images)
    num_batches = -(-num_images // (batch_size * accumulate)) * accumulate
    return np.resize(order, (num_batches, batch_size)).tolist()


def pk_batches(
    labels: Sequence[int],
    P: int,
    K: int,
    rng: np.random.Generator,
    accumulate: int = 1,
    *,
    every_image: bool = False,
) -> list[list[int]]:
    """P x K batches: P identities, K images of each, the images of an identity next to each other.

    The number of batches is the multiple of `accumulate` that brings an epoch closest to the size of the set. The
    images of an identity are dealt from a shuffled deck, so all are used equally often; those of an identity with fewer
    than K are repeated. Identities are dealt from a deck as well, or, with `every_image`, drawn as often as their
    images fill groups of K.

    Source: Hermans et al. 2017, arXiv 1703.07737, section 2; with `every_image` like the strong baseline (Luo et al.
    2019, arXiv 1903.07071).
    """
    images_of: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        images_of.setdefault(label, []).append(index)
    if len(images_of) < P:
        raise ValueError(f"P {P} exceeds the number of identities {len(images_of)}")
    decks = [_Deck(images_of[label], rng) for label in sorted(images_of)]
    groups = [-(-len(deck.cards) // K) for deck in decks]
    identities = _Draws(groups, rng) if every_image else _Deck(list(range(len(decks))), rng)
    num_batches = max(1, round(len(labels) / (P * K * accumulate))) * accumulate
    return [[index for place in identities.deal(P) for index in decks[place].deal(K)] for _ in range(num_batches)]


class _Draws:
    """Draws different things, each as often as its count, and then all over again.

    What is left most often is the most likely to be drawn, so that nothing remains at the end that has to be drawn
    twice at once.
    """

    def __init__(self, counts: Sequence[int], rng: np.random.Generator) -> None:
        self.counts = np.array(counts)
        self.rng = rng
        self.left = self.counts.copy()

    def deal(self, number: int) -> list[int]:
        """Different places of `counts`."""
        if np.count_nonzero(self.left) < number:
            self.left += self.counts
        drawn = self.rng.choice(len(self.left), number, replace=False, p=self.left / self.left.sum())
        self.left[drawn] -= 1
        return drawn.tolist()


class _Deck:
    """A shuffled deck of cards: no card is dealt twice before all have been, nor in one hand unless it is larger than
    the deck."""

    def __init__(self, cards: Sequence[int], rng: np.random.Generator) -> None:
        self.cards = list(cards)
        self.rng = rng
        self.left: list[int] = []

    def deal(self, number: int) -> list[int]:
        """The next cards of the deck, which is shuffled again when it runs out."""
        hand: list[int] = []
        while len(hand) < number:
            if not self.left:
                fresh = [self.cards[place] for place in self.rng.permutation(len(self.cards))]
                # Cards of this hand go to the bottom, to be dealt after the others; a stable sort keeps these shuffled.
                self.left = sorted(fresh, key=hand.__contains__) if len(hand) < len(self.cards) else fresh
            take = number - len(hand)
            hand, self.left = hand + self.left[:take], self.left[take:]
        return hand
