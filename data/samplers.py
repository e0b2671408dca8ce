"""Samples the images of each batch of an epoch; the order depends on the seed and the epoch only."""

from collections.abc import Sequence

import numpy as np

from data.options import BatchSampling, DataOptions
from data.samples import source_of


def epoch_batches(
    options: DataOptions,
    labels: Sequence[int],
    seed: int,
    epoch: int,
    world_size: int = 1,
    accumulate: int = 1,
    camids: Sequence[int] = (),
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
        camids: camera of each training image; only for batches that are balanced.
    """
    rng = np.random.default_rng([seed, epoch])
    sampling = options.batch_sampling_params
    if sampling.class_balanced and sampling.balance is not None:
        return balanced_batches(sampling, labels, camids, rng, world_size, accumulate)
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

    Source: Hermans et al. 2017, arXiv 1703.07737, section 2; `every_image` after the strong baseline (Luo et al. 2019,
    arXiv 1903.07071), which leaves out the images that fill no group.
    """
    images_of = _images_of(labels)
    decks = [_Deck(images, rng) for images in images_of]
    identities = _identities(range(len(decks)), images_of, P, K, rng, every_image)
    return [
        [index for place in identities.deal(P) for index in decks[place].deal(K)]
        for _ in range(_num_batches(len(labels), P * K, accumulate))
    ]


def balanced_batches(
    sampling: BatchSampling,
    labels: Sequence[int],
    camids: Sequence[int],
    rng: np.random.Generator,
    world_size: int = 1,
    accumulate: int = 1,
) -> list[list[int]]:
    """P x K batches as `pk_batches`, for `world_size` processes together, that are balanced as `sampling.balance` says.

    - "source": the part of each process has P / S identities of each of the S data sets, in their order. Those of a
      small data set are repeated more often than others.
    - "one_source": all identities of a batch are of one data set, which is drawn by its number of images.
    - "camera": the images of an identity are of different cameras; of as many as it has, if these are fewer than K.

    Args:
        sampling: P and K of one process, `every_image` and `balance`.
        labels, camids: class and camera of each training image; the camera tells the data set, too.
        rng, world_size, accumulate: as for `epoch_batches`.

    Raises:
        ValueError: a data set has too few identities, or P cannot be divided among them.
    """
    P, K, images_of = world_size * sampling.P, sampling.K, _images_of(labels)
    is_by_camera, is_shared = sampling.balance == "camera", sampling.balance == "source"
    decks = [_CameraDecks(images, camids, rng) if is_by_camera else _Deck(images, rng) for images in images_of]
    places: dict[int, list[int]] = {}
    for place, images in enumerate(images_of):
        places.setdefault(0 if is_by_camera else source_of(camids[images[0]]), []).append(place)
    sources = [places[source] for source in sorted(places)]
    if is_shared and sampling.P % len(sources):
        raise ValueError(f"P {sampling.P} is not a multiple of the number of data sets {len(sources)}")
    share = P // len(sources) if is_shared else P
    identities = [_identities(source, images_of, share, K, rng, sampling.every_image) for source in sources]
    turns = _Draws([-(-sum(len(images_of[place]) for place in source) // (P * K)) for source in sources], rng)
    batches = []
    for _ in range(_num_batches(len(labels), P * K, accumulate)):
        hands = [dealer.deal(share) for dealer in (identities if is_shared else [identities[turns.deal(1)[0]]])]
        # The part of each process, in turn, has its share of each hand.
        chosen = [place for rank in range(world_size) for hand in hands for place in _share(hand, rank, world_size)]
        batches.append([index for place in chosen for index in decks[place].deal(K)])
    return batches


def _share(hand: Sequence[int], rank: int, world_size: int) -> Sequence[int]:
    number = len(hand) // world_size
    return hand[rank * number : (rank + 1) * number]


def _images_of(labels: Sequence[int]) -> list[list[int]]:
    """The images of each class, sorted by class."""
    images_of: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        images_of.setdefault(label, []).append(index)
    return [images_of[label] for label in sorted(images_of)]


def _identities(
    places: Sequence[int], images_of: Sequence[list[int]], P: int, K: int, rng: np.random.Generator, every_image: bool
) -> "_Deck | _Draws":
    """Deals places of identities."""
    if len(places) < P:
        raise ValueError(f"P {P} exceeds the number of identities {len(places)}")
    if not every_image:
        return _Deck(places, rng)
    return _Draws([-(-len(images_of[place]) // K) for place in places], rng, places)


def _num_batches(num_images: int, batch_images: int, accumulate: int) -> int:
    return max(1, round(num_images / (batch_images * accumulate))) * accumulate


class _Draws:
    """Draws different things, each as often as its count, and then all over again.

    What is left most often is the most likely to be drawn, so that nothing remains at the end that has to be drawn
    twice at once.
    """

    def __init__(self, counts: Sequence[int], rng: np.random.Generator, things: Sequence[int] | None = None) -> None:
        self.counts = np.array(counts)
        self.things = np.arange(len(counts)) if things is None else np.array(things)
        self.rng = rng
        self.left = self.counts.copy()

    def deal(self, number: int) -> list[int]:
        """Different things."""
        if np.count_nonzero(self.left) < number:
            self.left += self.counts
        drawn = self.rng.choice(len(self.left), number, replace=False, p=self.left / self.left.sum())
        self.left[drawn] -= 1
        return self.things[drawn].tolist()


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


class _CameraDecks:
    """The images of an identity, a deck for each camera: no image is dealt twice in one hand before all have been, and
    of the cameras with images left the one that is least in the hand is next."""

    def __init__(self, cards: Sequence[int], camids: Sequence[int], rng: np.random.Generator) -> None:
        of_camera: dict[int, list[int]] = {}
        for card in cards:
            of_camera.setdefault(camids[card], []).append(card)
        self.decks = [_Deck(of_camera[camid], rng) for camid in sorted(of_camera)]
        self.sizes = np.array([len(deck.cards) for deck in self.decks])
        self.rng = rng

    def deal(self, number: int) -> list[int]:
        """The next images, in random order: the centroid of a cluster is nearest to the last one that it follows."""
        counts, limits = np.zeros_like(self.sizes), self.sizes.copy()
        while (missing := number - counts.sum()) > 0:
            if (counts == limits).all():
                limits += self.sizes
            left = counts < limits
            least = np.flatnonzero(left & (counts == counts[left].min()))
            counts[self.rng.permutation(least)[:missing]] += 1
        hand = [card for deck, count in zip(self.decks, counts.tolist(), strict=True) for card in deck.deal(count)]
        return [hand[place] for place in self.rng.permutation(number)]
