"""A foreign state dict on its way to the names of our network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.errors import DataError

COUNTER = "num_batches_tracked"
"""Of batch normalisations; of no use with a fixed momentum, and missing in files from before torch 0.4.1."""


class Imported(NamedTuple):
    """A foreign checkpoint as one of ours; it has no classifiers."""

    params: dict[str, Any]
    """Keys of params.json that compute what the other framework computes."""
    tensors: dict[str, Tensor]
    """By the names of our network."""
    used: tuple[str, ...]
    """Foreign names of the tensors above."""
    unused: tuple[str, ...]
    """The other foreign names, which belong to no part of the embedding."""
    assumed: tuple[str, ...] = ()
    """What the file does not say: keys of the params above with why they are as they are."""


class ForeignWeights:
    """A foreign state dict, from which an importer takes every tensor that it knows.

    Args:
        tensors: by their foreign names, without the prefixes of wrappers.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.left = dict(tensors)
        self.own: dict[str, Tensor] = {}
        self.used: list[str] = []
        self.unused: list[str] = []
        self.assumed: list[str] = []

    def has(self, prefix: str) -> bool:
        """Whether a name that is left starts so."""
        return any(name.startswith(prefix) for name in self.left)

    def count(self, prefix: str) -> int:
        """The numbers 0, 1, ... that names go on with after a prefix."""
        numbers = {name.removeprefix(prefix).partition(".")[0] for name in self.left if name.startswith(prefix)}
        return len([number for number in numbers if number.isdecimal()])

    def take(self, name: str) -> Tensor:
        """A tensor, which counts as used from now on.

        Raises:
            DataError: there is none of this name.
        """
        if name not in self.left:
            raise DataError(f"{name} is missing")
        self.used.append(name)
        return self.left.pop(name)

    def move(self, prefix: str, own_prefix: str, rename: Callable[[str], str] = str) -> None:
        """Give all tensors whose names start with a prefix our names, in which `rename` changes what follows it."""
        for name in [name for name in self.left if name.startswith(prefix)]:
            self.own[own_prefix + rename(name.removeprefix(prefix))] = self.take(name)

    def move_norms(self, names: Sequence[str], own: str, shift: Tensor | None = None) -> None:
        """Make one of our batch normalisations of one for each part; `shift` was added to what they normalise."""
        for kind in ("weight", "bias", "running_mean", "running_var"):
            self.own[f"{own}.{kind}"] = torch.cat([self.take(f"{name}.{kind}") for name in names])
        if shift is not None:
            self.own[f"{own}.running_mean"] = self.own[f"{own}.running_mean"] - shift
        counters = [self.take(f"{name}.{COUNTER}") for name in names if f"{name}.{COUNTER}" in self.left]
        self.own[f"{own}.{COUNTER}"] = counters[0] if counters else torch.tensor(0)

    def move_reductions(self, names: Sequence[str], own: str) -> None:
        """Make our reduction (P, C, D) of linear layers or 1x1 convolutions (D, C[, 1, 1]), one for each part."""
        self.own[own] = torch.stack([self.take(name).flatten(1).T for name in names])

    def drop(self, *prefixes: str) -> None:
        """Leave out tensors that belong to no part of the embedding, such as classifiers."""
        for name in [name for name in self.left if name.startswith(prefixes)]:
            self.unused.append(name)
            del self.left[name]

    def imported(self, params: dict[str, Any]) -> Imported:
        """What was taken.

        Raises:
            DataError: tensors are left, so that the network computes more than was taken.
        """
        if self.left:
            raise DataError(f"{listed(self.left)}: not of this network")
        return Imported(params, self.own, tuple(self.used), tuple(self.unused), tuple(self.assumed))


def listed(names: Sequence[str] | Mapping[str, object]) -> str:
    """The first names, and how many more there are."""
    shown = list(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
