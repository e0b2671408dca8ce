"""The network of SOLIDER, written from its definition, with its names of tensors."""

# torch declares attributes of modules that are set from outside as tensors or modules.
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportIndexIssue=false

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WindowAttention(nn.Module):
    """Attention within windows of 7 x 7, of a map that is padded to whole windows before it is shifted."""

    def __init__(self, dim: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift = heads, shift
        self.w_msa = nn.Module()
        self.w_msa.relative_position_bias_table = nn.Parameter(torch.randn(169, heads))
        self.w_msa.register_buffer("relative_position_index", torch.zeros(49, 49, dtype=torch.long))
        self.w_msa.qkv, self.w_msa.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns, shift = *x.shape[1:3], self.shift
        x = F.pad(x, (0, 0, 0, -columns % 7, 0, -rows % 7))
        height, width = x.shape[1:3]
        # What may attend to each other: of the same window, and not from opposite borders of the map.
        bands = [sum(torch.arange(size) >= size - cut for cut in (7, shift) if shift) for size in (height, width)]
        regions = (10 * torch.as_tensor(bands[0]).reshape(-1, 1) + bands[1]).expand(height, width)
        shifted = x.roll((-shift, -shift), (1, 2))
        windows = [(top, left) for top in range(0, height, 7) for left in range(0, width, 7)]
        result = torch.empty_like(shifted)
        for top, left in windows:
            place = slice(top, top + 7), slice(left, left + 7)
            result[:, *place] = self._within(shifted[:, *place].flatten(1, 2), regions[place].flatten()).unflatten(
                1, (7, 7)
            )
        return result.roll((shift, shift), (1, 2))[:, :rows, :columns]

    def _within(self, tokens: Tensor, regions: Tensor) -> Tensor:
        query, key, value = self.w_msa.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        rows, columns = torch.arange(49) // 7, torch.arange(49) % 7
        down, right = rows[:, None] - rows + 6, columns[:, None] - columns + 6
        scores = scores + self.w_msa.relative_position_bias_table[down * 13 + right].permute(2, 0, 1)
        scores = scores - 100.0 * (regions[:, None] != regions)
        return self.w_msa.proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


class SwinBlock(nn.Module):
    """With the names of mmcv."""

    def __init__(self, dim: int, heads: int, shift: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, shift)
        self.ffn = nn.Module()
        self.ffn.layers = nn.Sequential(nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU()), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn.layers(self.norm2(x))


class Merging(nn.Module):
    """Four neighbours become one, channel by channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        merged = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
        return self.reduction(self.norm(merged)).unflatten(1, (rows, columns))


class Solider(nn.Module):
    """Swin-T with semantic layers at a weight of 0.2, pooled; retrieval before the normalisation."""

    def __init__(self, reduced: int = 0) -> None:
        super().__init__()
        base = nn.Module()
        base.patch_embed = nn.Module()
        base.patch_embed.projection, base.patch_embed.norm = nn.Conv2d(3, 96, 4, 4), nn.LayerNorm(96)
        base.stages = nn.ModuleList()
        base.semantic_embed_w, base.semantic_embed_b = nn.ModuleList(), nn.ModuleList()
        for stage, depth in enumerate((2, 2, 6, 2)):
            dim, heads = 96 * 2**stage, 3 * 2**stage
            layers = nn.Module()
            layers.blocks = nn.Sequential(*(SwinBlock(dim, heads, 3 * (block % 2)) for block in range(depth)))
            if stage < 3:
                layers.downsample = Merging(dim)
            base.stages.append(layers)
            base.add_module(f"norm{stage}", nn.LayerNorm(dim))
            for amounts in (base.semantic_embed_w, base.semantic_embed_b):
                amounts.append(nn.Linear(2, 96 * 2 ** min(stage + 1, 3)))
        self.base = base
        if reduced:
            self.fcneck = nn.Linear(768, reduced, bias=False)
        self.reduced = reduced
        self.bottleneck, self.classifier = nn.BatchNorm1d(reduced or 768), nn.Linear(reduced or 768, 7, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        base = self.base
        x = base.patch_embed.norm(base.patch_embed.projection(images).permute(0, 2, 3, 1))
        weights = torch.tensor([0.2, 0.8])
        for stage, layers in enumerate(base.stages):
            x = layers.blocks(x)
            if stage < 3:
                scale, shift = base.semantic_embed_w[stage](weights), base.semantic_embed_b[stage](weights)
                x = layers.downsample(x) * F.softplus(scale) + shift
        pooled = base.norm3(x).mean((1, 2))
        return self.fcneck(pooled) if self.reduced else pooled
