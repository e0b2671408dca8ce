"""The networks of TransReID and CLIP-ReID, written from their definitions, with their names of tensors."""

# torch declares attributes of modules that are set from outside as tensors or modules.
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportIndexIssue=false

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A pre-norm block of a vision transformer."""

    def __init__(self, dim: int, heads: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.attn.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) / query.shape[3] ** 0.5).softmax(-1)
        x = x + self.attn.proj((weights @ value).transpose(1, 2).flatten(2))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class TransReID(nn.Module):
    """The class token, of overlapping patches if the stride says so, SIE and JPM; retrieval before the normalisation.

    An unknown camera is the mean of the known ones, as here.
    """

    def __init__(
        self, dim: int, stride: int, jpm: bool = False, cameras: int = 0, size: tuple[int, int] = (256, 128)
    ) -> None:
        super().__init__()
        self.base = nn.Module()
        self.base.patch_embed = nn.Module()
        self.base.patch_embed.proj = nn.Conv2d(3, dim, 16, stride)
        patches = ((size[0] - 16) // stride + 1) * ((size[1] - 16) // stride + 1)
        self.base.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.base.pos_embed = nn.Parameter(torch.randn(1, patches + 1, dim))
        self.base.blocks = nn.Sequential(*(Block(dim, dim // 64) for _ in range(12)))
        self.base.norm = nn.LayerNorm(dim, eps=1e-6)
        self.base.fc = nn.Linear(dim, 10)
        self.jpm = jpm
        if cameras:
            self.base.sie_embed = nn.Parameter(torch.randn(cameras, 1, dim) / 3)
        self.has_cameras = cameras > 0
        for suffix in ("", "_1", "_2", "_3", "_4") if jpm else ("",):
            self.add_module(f"bottleneck{suffix}", nn.BatchNorm1d(dim))
            self.add_module(f"classifier{suffix}", nn.Linear(dim, 7, bias=False))
        if jpm:
            self.b1, self.b2 = (nn.Sequential(Block(dim, dim // 64), nn.LayerNorm(dim, eps=1e-6)) for _ in range(2))

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        base = self.base
        patches = base.patch_embed.proj(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([base.cls_token.expand(len(images), -1, -1), patches], dim=1) + base.pos_embed
        if self.has_cameras:
            tokens = tokens + 3 * (base.sie_embed.mean(0) if cameras is None else base.sie_embed[cameras])
        if not self.jpm:
            return base.norm(base.blocks(tokens))[:, 0]
        tokens = base.blocks[:-1](tokens)
        first, patches = tokens[:, :1], tokens[:, 1:]
        shifted = [*range(4, patches.shape[1]), *range(4)]
        half = len(shifted) // 2
        order = [place for pair in zip(shifted[:half], shifted[half:], strict=True) for place in pair]
        length = len(order) // 4
        parts = [order[part * length : (part + 1) * length] for part in range(4)]
        features = [self.b2(torch.cat([first, patches[:, part]], dim=1))[:, 0] / 4 for part in parts]
        return torch.cat([self.b1(tokens)[:, 0], *features], dim=1)


class ClipBlock(nn.Module):
    """With CLIP's activation and names."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Module()
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False)[0]
        hidden = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


class ClipReID(nn.Module):
    """Class token and projection, before their normalisations."""

    def __init__(self, size: tuple[int, int] = (256, 128)) -> None:
        super().__init__()
        dim, encoder = 768, nn.Module()
        encoder.conv1 = nn.Conv2d(3, dim, 16, 16, bias=False)
        encoder.class_embedding = nn.Parameter(torch.randn(dim))
        encoder.positional_embedding = nn.Parameter(torch.randn(size[0] * size[1] // 256 + 1, dim))
        encoder.ln_pre, encoder.ln_post = nn.LayerNorm(dim), nn.LayerNorm(dim)
        encoder.transformer = nn.Module()
        encoder.transformer.resblocks = nn.Sequential(*(ClipBlock(dim, 12) for _ in range(12)))
        encoder.proj = nn.Parameter(torch.randn(dim, 512) / dim**0.5)
        self.image_encoder = encoder
        self.text_encoder = nn.Linear(2, 2)
        self.bottleneck, self.bottleneck_proj = nn.BatchNorm1d(dim), nn.BatchNorm1d(512)
        self.classifier, self.classifier_proj = nn.Linear(dim, 7, bias=False), nn.Linear(512, 7, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        encoder = self.image_encoder
        patches = encoder.conv1(images).flatten(2).transpose(1, 2)
        first = encoder.class_embedding.expand(len(images), 1, -1)
        tokens = encoder.ln_pre(torch.cat([first, patches], dim=1) + encoder.positional_embedding)
        feature = encoder.ln_post(encoder.transformer.resblocks(tokens))[:, 0]
        return torch.cat([feature, feature @ encoder.proj], dim=1)
