"""Networks of other frameworks, written from their definitions, under those frameworks' names of tensors."""

import torch
from torch import nn
from torch.nn import functional as F


def randomised(module: nn.Module, size: tuple[int, int]) -> nn.Module:
    """In evaluation, with random numbers where a new network has zeros and ones, and statistics of random images."""
    generator = torch.Generator().manual_seed(0)
    for name, values in module.named_parameters():
        if name.endswith("pool_layer.p"):
            values.data.uniform_(2.0, 5.0, generator=generator)
        elif values.dim() == 1:
            values.data.add_(torch.empty(values.shape).uniform_(-0.3, 0.3, generator=generator))
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        module.train()(F.interpolate(torch.randn(4, 3, 12, 6, generator=generator), size, mode="bicubic"))
    return module.eval()
