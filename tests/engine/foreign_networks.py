"""Networks of other frameworks, written from their definitions, under those frameworks' names of tensors."""

# torch declares attributes of modules that are set from outside as tensors or modules.
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet

Kind = Literal["bn", "ibn", "ain"]


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


# fast-reid


class HalfInstanceNorm(nn.Module):
    """IBN-a."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.half)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.IN(x[:, : self.half]), self.BN(x[:, self.half :])], dim=1)


class SingleChannelNonLocal(nn.Module):
    """x + BN(conv(theta phi^T g / N)), with one channel inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv2d(channels, 1, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels))
        # Rounding errors would grow with the third power of larger ones.
        for convolution in (self.g, self.theta, self.phi):
            nn.init.normal_(convolution.weight, std=0.002)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        pairs = theta.transpose(1, 2) @ phi / theta.shape[2]
        return x + self.W((pairs @ g.transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:]))


class FastReidResNet(nn.Module):
    """Pools without padding; the last stage has stride 1."""

    def __init__(self, name: str, ibn: bool = False, non_local: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        whole = getattr(resnet, name)()
        self.conv1, self.bn1 = whole.conv1, whole.bn1
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        for module in self.layer4.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
        if ibn:
            for layer in (self.layer1, self.layer2, self.layer3):
                for block in layer:
                    block.bn1 = HalfInstanceNorm(block.bn1.num_features)
        wide = whole.fc.in_features // 4
        self.NL_1, self.NL_4 = nn.ModuleList(), nn.ModuleList()
        self.NL_2 = nn.ModuleList(SingleChannelNonLocal(wide) for _ in range(non_local[0]))
        self.NL_3 = nn.ModuleList(SingleChannelNonLocal(2 * wide) for _ in range(non_local[1]))

    def stem(self, images: Tensor) -> Tensor:
        return F.max_pool2d(self.bn1(self.conv1(images)).relu(), 3, stride=2, ceil_mode=True)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer1(self.stem(images))
        for layer, added in ((self.layer2, self.NL_2), (self.layer3, self.NL_3)):
            for index, block in enumerate(layer):
                x = block(x)
                if index >= len(layer) - len(added):
                    x = added[index - len(layer) + len(added)](x)
        return self.layer4(x)


class FastReidHead(nn.Module):
    """Average, or a generalised mean; perhaps a 1x1 convolution; batch normalisation."""

    def __init__(self, channels: int, dim: int, pooling: Literal["avg", "fixed", "trained"], classes: int = 7) -> None:
        super().__init__()
        self.pooling = pooling
        self.pool_layer = nn.Module()
        if pooling == "trained":
            self.pool_layer.p = nn.Parameter(torch.ones(1) * 3)
        self.bottleneck = nn.Sequential()
        if dim:
            self.bottleneck.append(nn.Conv2d(channels, dim, 1, bias=False))
        self.bottleneck.append(nn.BatchNorm2d(dim or channels))
        self.weight = nn.Parameter(torch.randn(classes, dim or channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.pooling == "avg":
            pooled = x.mean((2, 3), keepdim=True)
        else:
            power = self.pool_layer.p if self.pooling == "trained" else 3.0
            pooled = x.clamp(min=1e-6).pow(power).mean((2, 3), keepdim=True).pow(1 / power)
        return self.bottleneck(pooled)[..., 0, 0]


class FastReidBaseline(nn.Module):
    """BoT, AGW and SBS."""

    def __init__(
        self,
        name: str,
        pooling: Literal["avg", "fixed", "trained"] = "avg",
        ibn: bool = False,
        non_local: tuple[int, int] = (0, 0),
        dim: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = FastReidResNet(name, ibn, non_local)
        self.heads = FastReidHead(512 if name in ("resnet18", "resnet34") else 2048, dim, pooling)

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(self.backbone(images))


class FastReidMGN(nn.Module):
    """Three copies of what follows the first block of layer3, with eight heads."""

    def __init__(self, name: str, channels: int, dim: int, ibn: bool = False) -> None:
        super().__init__()
        whole = FastReidResNet(name, ibn)
        pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        layers = (whole.conv1, whole.bn1, nn.ReLU(), pool, whole.layer1, whole.layer2, whole.layer3[0])
        self.backbone = nn.Sequential(*layers)
        for number in (1, 2, 3):
            own = FastReidResNet(name, ibn)
            self.add_module(f"b{number}", nn.Sequential(nn.Sequential(*own.layer3[1:]), own.layer4))
            for part in range(number + 1 if number > 1 else 1):
                suffix = f"b{number}{part or ''}_head"
                self.add_module(suffix, FastReidHead(channels, dim, "trained"))

    def forward(self, images: Tensor) -> Tensor:
        x = self.backbone(images)
        maps = {number: self.get_submodule(f"b{number}")(x) for number in (1, 2, 3)}
        seen = {"b1": maps[1], "b2": maps[2], "b3": maps[3]}
        seen |= {f"b2{part + 1}": stripe for part, stripe in enumerate(maps[2].chunk(2, dim=2))}
        seen |= {f"b3{part + 1}": stripe for part, stripe in enumerate(maps[3].chunk(3, dim=2))}
        return torch.cat([self.get_submodule(f"{name}_head")(x) for name, x in seen.items()], dim=1)


# torchreid


def layer(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, norm: type = nn.BatchNorm2d):
    """Convolution and normalisation, under torchreid's names."""
    module = nn.Module()
    module.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    if norm is not nn.Identity:
        module.bn = norm(out_channels, affine=True)
    module.forward = lambda x: module.bn(module.conv(x)) if norm is not nn.Identity else module.conv(x)
    return module


class Light(nn.Module):
    """Pointwise, then depthwise."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv2(self.conv1(x))).relu()


class Stream(nn.Module):
    """As OSNet-AIN names it."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Light(channels) for _ in range(length)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class OSBlock(nn.Module):
    """Four streams with one gate; instance normalisation nowhere, after the addition or in the residual."""

    def __init__(self, in_channels: int, out_channels: int, place: str, named_as_ain: bool) -> None:
        super().__init__()
        inner = out_channels // 4
        self.conv1 = layer(in_channels, inner)
        if named_as_ain:
            self.conv2 = nn.ModuleList(Stream(inner, length) for length in (1, 2, 3, 4))
            self.streams = [*self.conv2]
        else:
            self.conv2a = Light(inner)
            self.conv2b, self.conv2c, self.conv2d = (
                nn.Sequential(*(Light(inner) for _ in range(length))) for length in (2, 3, 4)
            )
            self.streams = [self.conv2a, self.conv2b, self.conv2c, self.conv2d]
        self.gate = nn.Module()
        self.gate.fc1, self.gate.fc2 = nn.Conv2d(inner, inner // 16, 1), nn.Conv2d(inner // 16, inner, 1)
        self.conv3 = layer(inner, out_channels, norm=nn.Identity if place == "inside" else nn.BatchNorm2d)
        self.downsample = layer(in_channels, out_channels) if in_channels != out_channels else None
        self.place = place
        if place != "nowhere":
            self.IN = nn.InstanceNorm2d(out_channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        reduced, total = self.conv1(x).relu(), 0
        for stream in self.streams:
            found = stream(reduced)
            gate = self.gate.fc2(self.gate.fc1(found.mean((2, 3), keepdim=True)).relu()).sigmoid()
            total = total + gate * found
        residual, shortcut = self.conv3(total), x if self.downsample is None else self.downsample(x)
        if self.place == "inside":
            return (self.IN(residual) + shortcut).relu()
        if self.place == "after":
            return self.IN(residual + shortcut).relu()
        return (residual + shortcut).relu()


class TorchreidOSNet(nn.Module):
    """OSNet, OSNet-IBN or OSNet-AIN with its linear layer of 512."""

    def __init__(self, kind: Kind, width: float, classes: int = 7) -> None:
        super().__init__()
        channels = [int(width * number) for number in (64, 256, 384, 512)]
        places = {
            "bn": ("nowhere",) * 6,
            "ibn": ("after", "after", *("nowhere",) * 4),
            "ain": ("inside", "inside", "nowhere", "inside", "inside", "nowhere"),
        }[kind]
        self.kind = kind
        self.conv1 = layer(3, channels[0], 7, 2, nn.BatchNorm2d if kind == "bn" else nn.InstanceNorm2d)
        for stage in (0, 1, 2):
            ins, out = channels[stage], channels[stage + 1]
            blocks = [
                OSBlock(ins, out, places[2 * stage], kind == "ain"),
                OSBlock(out, out, places[2 * stage + 1], kind == "ain"),
            ]
            transition = [] if stage == 2 else [nn.Sequential(layer(out, out), nn.AvgPool2d(2))]
            if kind == "ain" and transition:
                self.add_module(f"pool{stage + 2}", transition.pop())
            self.add_module(f"conv{stage + 2}", nn.ModuleList([*blocks, *transition]))
        self.conv5 = layer(channels[3], channels[3])
        self.fc = nn.Sequential(nn.Linear(channels[3], 512), nn.BatchNorm1d(512), nn.ReLU())
        self.classifier = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(images).relu(), 3, stride=2, padding=1)
        for stage in (2, 3, 4):
            blocks: Sequence[nn.Module] = [*self.get_submodule(f"conv{stage}").children()]
            for block in blocks[:2]:
                x = block(x)
            if stage < 4:
                convolution, pool = blocks[2] if len(blocks) > 2 else self.get_submodule(f"pool{stage}")  # pyright: ignore
                x = pool(convolution(x).relu())
        return self.fc(self.conv5(x).relu().mean((2, 3)))


class TorchreidResNet(nn.Module):
    """torchvision's, with a linear layer of 512 and stride 1, or without and with stride 2."""

    def __init__(self, name: str, dim: int, classes: int = 7) -> None:
        super().__init__()
        whole = getattr(resnet, name)()
        self.conv1, self.bn1, self.maxpool = whole.conv1, whole.bn1, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        channels = whole.fc.in_features
        if dim:
            for module in self.layer4.modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)
            self.fc = nn.Sequential(nn.Linear(channels, dim), nn.BatchNorm1d(dim), nn.ReLU())
        self.classifier = nn.Linear(dim or channels, classes)
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(images)).relu())
        pooled = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        return self.fc(pooled) if self.dim else pooled


# TransReID


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


# CLIP-ReID


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


# SOLIDER


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
