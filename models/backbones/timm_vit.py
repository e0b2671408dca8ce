"""Vision transformers of timm: tokens as feature map, class token as global feature."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from models.backbones.backbone import HEAD, BackboneError
from models.backbones.from_timm import FromTimm
from models.backbones.jigsaw import MOVED, jigsaw
from models.backbones.timm_stages import MODEL, create_model
from models.cameras import CAMIDS, CameraEmbedding

MODULES = ("vision_transformer", "deit", "eva")
"""Modules of timm whose models are built here."""
POSITION = "pos_embed"
PROJECTION = "projection"
CAMERA = "camera_embedding"
STRIDE = "model_params.patch_stride"
Grid = tuple[int, int]
"""Rows and columns of patches."""

logger = logging.getLogger(__name__)


class VisionTransformer(FromTimm):
    """A VisionTransformer or Eva of timm without classifier; parameter names are timm's.

    The map is that of the patch tokens after the final norm. The global branch, or the single feature, sees the class
    token as a map (B, C, 1, 1), or the patch tokens where there is none. The last stage is the last block with the
    final norm.

    Args:
        name: as timm knows it, such as "vit_small_patch16_224.augreg_in21k_ft_in1k".
        image_size: height and width of the images.
        patch_stride: pixels from one patch to the next; 0: as many as a patch has. What is left at the right and lower
            border is not seen.
        drop_path: rate of stochastic depth of the last block; the others' rise to it linearly.

    Raises:
        BackboneError: the network has no such grid of patches.

    Source: Dosovitskiy et al. 2021, arXiv 2010.11929; He et al. 2021, arXiv 2102.04378, section 3.1 (overlapping
    patches); Huang et al. 2016, arXiv 1603.09382 (stochastic depth).
    """

    def __init__(self, name: str, image_size: tuple[int, int], patch_stride: int = 0, drop_path: float = 0.0) -> None:
        try:
            whole: Any = create_model(name, drop_path_rate=drop_path, dynamic_img_size=False)
        # Those with a second class token cannot lack their pooling.
        except AssertionError as error:
            raise BackboneError((MODEL,), f"timm:{name} does not run without its pooling: {error}") from error
        depth = len(whole.blocks)
        embedding = ("patch_embed", "cls_token", "reg_token", POSITION, "norm_pre", "rope")
        blocks = [(f"blocks.{number}",) for number in range(depth - 1)]
        super().__init__(name, whole.num_features, (embedding, *blocks, (f"blocks.{depth - 1}", "norm")))
        self.patch_embed: Any = whole.patch_embed
        self.norm_pre: nn.Module = whole.norm_pre
        self.blocks: nn.Module = whole.blocks
        self.cls_token: nn.Parameter | None = whole.cls_token
        self.reg_token: nn.Parameter | None = whole.reg_token
        # Networks that average tokens have their norm after that; here it comes before.
        self.norm: nn.Module = whole.fc_norm if isinstance(whole.norm, nn.Identity) else whole.norm
        self.num_prefix_tokens: int = whole.num_prefix_tokens
        self.positions_of_patches_only = bool(whole.no_embed_class)
        self.grid = self._set_stride(image_size, patch_stride)
        self.jigsaw_parts = 0
        self.pos_embed: nn.Parameter | None = None
        if whole.pos_embed is not None:
            tokens = math.prod(self.grid) + self._prefix_positions
            self.pos_embed = nn.Parameter(torch.empty(1, tokens, self.out_channels))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.projection: nn.Linear | None = None
        self.rope: Any = getattr(whole, "rope", None)
        if self.rope is not None:
            if getattr(whole, "rope_mixed", False) or not hasattr(self.rope, "update_feat_shape"):
                raise BackboneError((MODEL,), f"the rotary embedding of timm:{name} depends on more than the position")
            self.rope.update_feat_shape([*self.grid])

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> map of the patch tokens (B, C, h, w)."""
        return self.maps(images)[0]

    def maps(self, images: Tensor, camids: Tensor | None = None) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> maps of the patch tokens (B, C, h, w); the class token (B, C, 1, 1) is the last.

        Before it those of `add_projection`, if that was called. After `add_jigsaw` the class tokens of P parts follow,
        (B, C, P, 1). After `add_camera_embedding` the cameras of the images (B,) may be given.
        """
        tokens = self._embed(images, camids)
        # Once for all blocks: that of DINOv3 is drawn anew in training.
        rope = None if self.rope is None else self.rope.get_embed()
        for stage in self.stage_names[1:-1]:
            tokens = self._run(stage, tokens, rope)
        if self.jigsaw_parts:
            whole, (copies,) = self._run(self.last, tokens, rope), self.copies
            rearranged = jigsaw(tokens, self.num_prefix_tokens, self.jigsaw_parts)
            parts = self._run(copies, rearranged.flatten(0, 1), rope)[:, 0].unflatten(0, (self.jigsaw_parts, -1))
            return self._map_of(whole), whole[:, 0, :, None, None], parts.permute(1, 2, 0)[..., None]
        outputs = [self._run(names, tokens, rope) for names in (self.last, *self.copies)]
        maps = [self._map_of(output) for output in outputs]
        if self.cls_token is None:
            return tuple(maps)
        # That of the last copy, which is the global branch's, if there is one.
        class_token = outputs[-1][:, 0]
        seen = [class_token] if self.projection is None else [tokens[:, 0], self.projection(class_token), class_token]
        return maps[0], *maps[1:-1], *(token[:, :, None, None] for token in seen)

    def add_projection(self, dim: int) -> None:
        """Let branches also see a linear projection of the class token, and the token before the last block."""
        if self.cls_token is None:
            super().add_projection(dim)
        self.projection = nn.Linear(self.out_channels, dim, bias=False)
        # As CLIP does.
        nn.init.normal_(self.projection.weight, std=self.out_channels**-0.5)
        self._add_to_stage(PROJECTION, self.projection, 0)
        self.added = (*self.added, PROJECTION)

    def add_jigsaw(self, num_parts: int) -> None:
        """Let `maps` return the class tokens of rearranged patches, after a copy of the last stage of their own.

        Raises:
            BackboneError: there is no class token, fewer patches than parts, or a rotary embedding.
        """
        patches = math.prod(self.grid)
        if self.cls_token is None:
            text = f'"jpm" needs a class token, but timm:{self.name} ({MODEL}) has none; use another model'
            raise BackboneError((HEAD, MODEL), text)
        if self.rope is not None:
            text = f'"jpm" rearranges patches, whose rotary embedding timm:{self.name} ({MODEL}) would then lack'
            raise BackboneError((HEAD, MODEL), f"{text}; use a model without")
        if patches < max(num_parts, MOVED + 1):
            text = f'"jpm" cuts the patches of an image into {num_parts}, but timm:{self.name} ({MODEL}) has {patches}'
            raise BackboneError((HEAD, MODEL, "img_h", "img_w"), f"{text} of them; use a larger img_h or img_w")
        self.add_copy("jigsaw")
        self.jigsaw_parts = num_parts

    def add_camera_embedding(self, camids: Sequence[int], factor: float) -> None:
        """Add a learnable vector of its camera to all tokens of each image, as to the positions."""
        self._add_to_stage(CAMERA, CameraEmbedding(camids, self.out_channels, factor), len(self.stage_names) - 1)
        self.added = (*self.added, CAMERA)

    def with_own_names(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Position embeddings of another grid are resized; the norm of averaged tokens is that of all.

        timm's last layer is the projection, where it is one. Vectors of other cameras are left out.
        """
        own = self._with_projection(self._without_other_cameras(state))
        if not any(key.startswith(("norm.", "backbone.")) for key in own):
            own = {key.removeprefix("fc_") if key.startswith("fc_norm.") else key: value for key, value in own.items()}
        for key in (POSITION, f"backbone.{POSITION}"):
            if key in own and self.pos_embed is not None:
                own[key] = self._resized(own[key], is_square=key == POSITION)
        return own

    def _without_other_cameras(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state without camera embedding, if that is of other cameras than this one."""
        own = None if self.camera_embedding is None else self.camera_embedding.get_buffer(CAMIDS).tolist()
        for prefix in (CAMERA, f"backbone.{CAMERA}"):
            camids = state.get(f"{prefix}.{CAMIDS}")
            if own is not None and camids is not None and camids.tolist() != own:
                logger.warning("backbone: camera embeddings of other cameras in the weights; left as initialised")
                return {key: value for key, value in state.items() if not key.startswith(f"{prefix}.")}
        return dict(state)

    def _with_projection(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """With timm's `head` as the projection, if it has the same size and no bias, which a classifier has."""
        key = f"{PROJECTION}.weight"
        if self.projection is None or key in state or f"backbone.{key}" in state:
            return state
        weight, bias = state.get("head.weight"), state.get("head.bias")
        if weight is None or weight.shape != self.projection.weight.shape or (bias is not None and bias.any()):
            dim = self.projection.out_features
            logger.warning("backbone: no projection to %d in the weights; left as initialised", dim)
            return state
        others = {name: value for name, value in state.items() if name not in ("head.weight", "head.bias")}
        return {**others, key: weight}

    def _set_stride(self, image_size: tuple[int, int], stride: int) -> Grid:
        """Let the patches be so far apart; the grid of an image."""
        projection = self.patch_embed.proj
        patch = projection.kernel_size[0]
        if stride > patch:
            text = f"{stride} leaves pixels out between the patches of timm:{self.name} ({MODEL})"
            raise BackboneError((STRIDE, MODEL), f"{text}, which have {patch} x {patch} pixels; use at most {patch}")
        if min(image_size) < patch:
            text = f"timm:{self.name} has patches of {patch} x {patch} pixels"
            text += f", which do not fit into images of {image_size[0]} x {image_size[1]} (img_h, img_w)"
            raise BackboneError((MODEL, "img_h", "img_w"), text)
        stride = stride or patch
        projection.stride = (stride, stride)
        rows, columns = ((side - patch) // stride + 1 for side in image_size)
        return rows, columns

    @property
    def _prefix_positions(self) -> int:
        """Position embeddings of class and register tokens."""
        return 0 if self.positions_of_patches_only else self.num_prefix_tokens

    def _embed(self, images: Tensor, camids: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) -> tokens of class, registers and patches (B, N, C) with positions and cameras."""
        patches = self.patch_embed.norm(self.patch_embed.proj(images).flatten(2).transpose(1, 2))
        if self.pos_embed is not None and self.positions_of_patches_only:
            patches = patches + self.pos_embed
        prefix = [
            token.expand(images.shape[0], -1, -1) for token in (self.cls_token, self.reg_token) if token is not None
        ]
        tokens = torch.cat([*prefix, patches], dim=1)
        if self.pos_embed is not None and not self.positions_of_patches_only:
            tokens = tokens + self.pos_embed
        if self.camera_embedding is not None:
            tokens = tokens + self.camera_embedding(camids)
        return self.norm_pre(tokens)

    def _run(self, names: Sequence[str], tokens: Tensor, rope: Tensor | None) -> Tensor:
        """Apply submodules, of which blocks take a rotary embedding."""
        for name in names:
            module = self.get_submodule(name)
            tokens = module(tokens, rope=rope) if rope is not None and name.startswith("blocks") else module(tokens)
        return tokens

    def _map_of(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) -> those of the patches as a map (B, C, h, w)."""
        return tokens[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, self.grid)

    def _resized(self, positions: Tensor, *, is_square: bool) -> Tensor:
        """Position embeddings (1, N, C) for this grid: those of patches bicubic with antialiasing, as timm does it."""
        prefix = self._prefix_positions
        grid = _grid_of(positions.shape[1] - prefix, self.grid, is_square=is_square)
        if grid == self.grid:
            return positions
        sizes = " to ".join(f"{rows} x {columns}" for rows, columns in (grid, self.grid))
        logger.info("backbone: position embedding resized from %s patches", sizes)
        return resample_abs_pos_embed(positions, list(self.grid), list(grid), num_prefix_tokens=prefix)


def _grid_of(patches: int, wanted: Grid, *, is_square: bool) -> Grid:
    """The grid that so many patches were: square, or, if they do not make one, that of the nearest proportions."""
    side = math.isqrt(patches)
    if is_square and side * side == patches:
        return side, side
    grids = [(rows, patches // rows) for rows in range(1, patches + 1) if patches % rows == 0]
    return min(grids, key=lambda grid: abs(math.log(grid[0] / grid[1] / (wanted[0] / wanted[1]))))
