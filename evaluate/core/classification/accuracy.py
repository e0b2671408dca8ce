"""Exact metrics of image classification from class scores."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from data.samples import Sample


@dataclass(frozen=True)
class Classified:
    """N images and their scores in each of C classes. At equal scores the earlier class comes first.

    Attributes:
        samples: the images.
        truth: (N,) int64, index of each one's class.
        scores: (N, C) float32, the higher the likelier.
        names: of the classes.
    """

    samples: list[Sample]
    truth: Tensor
    scores: Tensor
    names: list[str]

    @property
    def num_classes(self) -> int:
        """C."""
        return self.scores.shape[1]

    @cached_property
    def places(self) -> Tensor:
        """(N,) int64, how many classes come before the true one; 0 = recognised."""
        own = self.scores.gather(1, self.truth[:, None])
        is_earlier = torch.arange(self.num_classes) < self.truth[:, None]
        return ((self.scores > own) | ((self.scores == own) & is_earlier)).sum(dim=1)

    @cached_property
    def predicted(self) -> Tensor:
        """(N,) int64, the class that each image is taken for."""
        return self.scores.argmax(dim=1)

    @cached_property
    def confidence(self) -> Tensor:
        """(N,) float32, the probability that the softmax of the scores gives to `predicted`."""
        best = self.scores.gather(1, self.predicted[:, None]).squeeze(1)
        return (best - self.scores.logsumexp(dim=1)).exp()

    @cached_property
    def num_images(self) -> Tensor:
        """(C,) int64, images of each class."""
        return self.truth.bincount(minlength=self.num_classes)

    @cached_property
    def class_accuracy(self) -> Tensor:
        """(C,) float64, share of each class's images that are recognised; NaN for a class without images."""
        return self.truth[self.places == 0].bincount(minlength=self.num_classes).double() / self.num_images

    def top(self, k: int) -> float:
        """Share of the images whose class is among the k best."""
        return (self.places < k).double().mean().item()

    @property
    def mean_class_accuracy(self) -> float:
        """Mean over the classes that have images, each counting the same however many it has."""
        return self.class_accuracy.nanmean().item()

    @property
    def worst_class(self) -> int:
        """Index of the class recognised least often, the first of several."""
        return int(self.class_accuracy.nan_to_num(nan=torch.inf).argmin())
