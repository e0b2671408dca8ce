"""Activation maps: the magnitude of the last feature map, overlaid on the image."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.augmentation.normalisation import normalise
from data.images import decode
from evaluate.core.context import EvalContext
from evaluate.core.report.blocks import ImageGroup, ImageGroups, Note, Section, Shown, Verdict
from evaluate.core.report.images import as_source, describe, number, person
from evaluate.core.report.ordering import Found, walk
from evaluate.core.retrieval.retrieve import Retrieval

COLOURS = "inferno"
OPACITY = 0.55


def activation(feature_map: Tensor, height: int, width: int) -> Tensor:
    """The activation at each position of an image.

    Args:
        feature_map: (B, C, h, w).
        height, width: of the images.

    Returns:
        (B, height, width) float32 in 0..1: the length of the channel vector, scaled per image from its lowest to its
        highest and interpolated bilinearly; 0 where it is the same everywhere.
    """
    strength = torch.linalg.vector_norm(feature_map.float(), dim=1, keepdim=True)
    low, high = strength.amin(dim=(2, 3), keepdim=True), strength.amax(dim=(2, 3), keepdim=True)
    scaled = (strength - low) / (high - low).where(high > low, 1.0)
    return F.interpolate(scaled, (height, width), mode="bilinear", align_corners=False).squeeze(1)


def overlay(image: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) uint8 in grey under the colours of its activation (H, W) in 0..1."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    colours = mpl.colormaps[COLOURS](strength)[..., :3] * 255.0
    mixed = grey[..., None] * (1.0 - OPACITY) + colours * OPACITY
    return mixed.round().astype(np.uint8)


def activation_section(retrieval: Retrieval, places: Sequence[int], config: EvalContext, missing: str) -> Section:
    """The activation of the queries at some places of the result, and of their first right and first wrong image."""
    title = "Where the network looks"
    backbone = _backbone(config)
    if backbone is None:
        reason = "the embeddings come from a file" if not config.has_net else "this network shows no feature map"
        return Section(title, "", (Note(f"Activation maps are missing here: {reason}."),))
    if missing:
        return Section(title, "", (Note(missing),))
    text = (
        "The queries of lowest average precision, the first wrong and the first right gallery image of each. Colour is "
        "the length of the channel vector of the last feature map, from the lowest in an image (dark) to the highest "
        "(bright)."
    )
    looked = {place: _looked(retrieval, place) for place in places}
    drawn = iter(_draw(backbone, [each for group in looked.values() for each in group], config))
    groups = []
    for place, group in looked.items():
        row = int(retrieval.result.queries[place])
        note = f"camera {int(retrieval.query.camids[row])}, AP {retrieval.result.ap[place].item():.1%}"
        images = tuple(shown for _ in group for shown in next(drawn))
        groups.append(ImageGroup(person(int(retrieval.query.pids[row])), note, images))
    return Section(title, text, (ImageGroups(tuple(groups)),))


def _backbone(config: EvalContext) -> nn.Module | None:
    """The part of the network that makes its last feature map, where it is as an Embedder has it."""
    backbone = getattr(getattr(config.network, "network", None), "backbone", None)
    return backbone if isinstance(backbone, nn.Module) else None


def _looked(retrieval: Retrieval, place: int) -> list[tuple[Path, Shown]]:
    """The query at a place of the result, its first wrong image if there is one, and its first right one.

    Each as its file and a frame without a picture.
    """
    query, gallery = retrieval.query, retrieval.gallery
    row = int(retrieval.result.queries[place])
    first: dict[Verdict, Found] = {}
    for found in walk(retrieval.distances, retrieval.truth, row):
        first.setdefault(found.verdict, found)
        if "right" in first and "wrong" in first:
            break
    looked = [(query.samples[row].path, Shown("", 0, 0, describe(query, row), "query", "query"))]
    for verdict in ("wrong", "right"):
        if found := first.get(verdict):
            hint = f"{describe(gallery, found.row)}, distance {found.distance:.4g}, rank {found.rank}"
            frame = Shown("", 0, 0, hint, verdict, f"rank {found.rank}", number(found.distance))
            looked.append((gallery.samples[found.row].path, frame))
    return looked


@torch.inference_mode()
def _draw(backbone: nn.Module, looked: Sequence[tuple[Path, Shown]], config: EvalContext) -> list[tuple[Shown, Shown]]:
    """Each image as the network sees it, and beside it its activation."""
    device = next(backbone.parameters()).device
    pictures = []
    for start in range(0, len(looked), config.evaluation_params.batch_size):
        batch = looked[start : start + config.evaluation_params.batch_size]
        images = np.stack([decode(path, config.eval_resize) for path, _ in batch])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
        feature_map = backbone(normalise(pixels, config.data_augmentation.normalisation))
        strengths = activation(feature_map, config.img_h, config.img_w).cpu().numpy()
        for (_, frame), image, strength in zip(batch, images, strengths, strict=True):
            source, width, height = as_source(image)
            seen = replace(frame, source=source, width=width, height=height)
            heat = Shown(*as_source(overlay(image, strength)), f"activation of {frame.hint}", "plain", " ", " ")
            pictures.append((seen, heat))
    return pictures
