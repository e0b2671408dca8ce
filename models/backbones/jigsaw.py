"""The rearrangement of patches of TransReID's jigsaw patch module."""

import torch
from torch import Tensor

MOVED = 4
"""Patches that move to the end."""
GROUPS = 2
"""Groups from which patches are taken in turns."""


def jigsaw(tokens: Tensor, num_prefix_tokens: int, num_parts: int) -> Tensor:
    """Rearrange the patches of each image and cut them into parts, so that each part sees the whole image.

    The first patches are moved to the end; two halves of the result are taken in turns; what remains after cutting it
    into equal parts is left out. As in the authors' code, a shift by 5 moves 4 patches, and of an odd number of patches
    the last but one is taken twice.

    Args:
        tokens: (B, prefix + N, C).
        num_prefix_tokens: class token and registers, which every part gets.
        num_parts: P.

    Returns:
        (P, B, prefix + N // P, C).

    Source: He et al. 2021, arXiv 2102.04378, section 3.2; the authors' make_model.py, shuffle_unit.
    """
    prefix, patches = tokens[:, :num_prefix_tokens], tokens[:, num_prefix_tokens:]
    length = patches.shape[1] // num_parts
    patches = torch.cat([patches[:, MOVED:], patches[:, :MOVED]], dim=1)
    if patches.shape[1] % GROUPS:
        patches = torch.cat([patches, patches[:, -2:-1]], dim=1)
    patches = patches.unflatten(1, (GROUPS, -1)).transpose(1, 2).flatten(1, 2)
    parts = patches[:, : num_parts * length].unflatten(1, (num_parts, length)).transpose(0, 1)
    return torch.cat([prefix.expand(num_parts, -1, -1, -1), parts], dim=2)
