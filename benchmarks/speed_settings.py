"""What the speed benchmark measures: networks and sizes, ways to compute, and the rounds of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from config.params import Params
from data.synthetic import SyntheticOptions

Feed = Literal["resident", "loaded"]
"""Where a step's batch comes from: "resident": it lies on the device already; "loaded": JPEG files, augmented."""
FEEDS: tuple[Feed, ...] = ("resident", "loaded")

PAD, ERASING = 10, 0.5
"""Augmentation beside mirroring: pixels of the padded crop, share of the images with an erased rectangle."""
IDENTITIES = 751
"""Those of Market-1501's training set."""


@dataclass(frozen=True)
class Setting:
    """A network, its images, and how long it is measured."""

    name: str
    model: str
    parts: int
    """Stripes; 0 = one feature of the whole map."""
    dim: int
    """Size of the whole embedding."""
    height: int
    width: int
    stride: int
    """Of the last stage."""
    batch: int
    rounds: int
    steps: int
    """Timed steps of a round."""


@dataclass(frozen=True)
class Variant:
    """A way to train."""

    precision: Literal["fp32", "bf16"] = "fp32"
    compile: Literal["on", "graphs", "off"] = "off"
    channels_last: bool = True
    feeds: tuple[Feed, ...] = FEEDS

    @property
    def name(self) -> str:
        """As the tables show it."""
        how = {"on": ", compiled", "graphs": ", compiled to CUDA graphs", "off": ""}[self.compile]
        return f"{self.precision}{how}{'' if self.channels_last else ', not channels-last'}"


@dataclass(frozen=True)
class Plan:
    """Everything that is measured on one kind of device."""

    settings: tuple[Setting, ...]
    variants: tuple[Variant, ...]
    pipeline: Setting
    """Its images and batches are loaded; its network is not used."""
    pipeline_batches: int
    """Batches that our side delivers in a round, a third as many where it decodes anew; the textbook's, 8 a worker."""
    extraction: Setting
    extraction_images: int
    """The same ones again and again, if there are not so many."""
    extraction_rounds: int
    curve: Setting
    curve_steps: int
    identities: int = IDENTITIES
    quick: bool = False
    """Tiny sizes, whose figures say nothing."""


CPU_PLAN = Plan(
    settings=(
        Setting("PCB-6, 384x128, stride 1", "resnet_50", 6, 1536, 384, 128, 1, batch=16, rounds=3, steps=2),
        Setting("PCB-4, 128x64, stride 2", "resnet_18", 4, 256, 128, 64, 2, batch=64, rounds=4, steps=3),
    ),
    variants=(Variant(), Variant(channels_last=False, feeds=("resident",))),
    pipeline=Setting("", "resnet_18", 6, 96, 384, 128, 2, batch=64, rounds=3, steps=0),
    pipeline_batches=60,
    extraction=Setting("PCB-6, 384x128, stride 1", "resnet_50", 6, 1536, 384, 128, 1, batch=32, rounds=0, steps=0),
    extraction_images=64,
    extraction_rounds=2,
    curve=Setting("PCB-4, 128x64, stride 2", "resnet_18", 4, 256, 128, 64, 2, batch=64, rounds=0, steps=0),
    curve_steps=300,
)
CUDA_PLAN = Plan(
    settings=(
        Setting("PCB-6, 384x128, stride 1", "resnet_50", 6, 1536, 384, 128, 1, batch=64, rounds=4, steps=15),
        Setting("PCB-6, 384x128, stride 2", "resnet_50", 6, 1536, 384, 128, 2, batch=64, rounds=4, steps=15),
        Setting("single feature, 256x128, stride 1", "resnet_50", 0, 256, 256, 128, 1, batch=128, rounds=4, steps=8),
        Setting("PCB-4, 128x64, stride 2", "resnet_18", 4, 256, 128, 64, 2, batch=64, rounds=4, steps=15),
    ),
    variants=(
        Variant("bf16", "on"),
        Variant("bf16", "graphs", feeds=("resident",)),
        Variant("bf16"),
        Variant("bf16", channels_last=False, feeds=("resident",)),
        Variant("fp32"),
    ),
    pipeline=Setting("", "resnet_18", 6, 96, 384, 128, 2, batch=64, rounds=4, steps=0),
    pipeline_batches=60,
    extraction=Setting("PCB-6, 384x128, stride 1", "resnet_50", 6, 1536, 384, 128, 1, batch=128, rounds=0, steps=0),
    extraction_images=6000,
    extraction_rounds=3,
    curve=Setting("PCB-6, 384x128, stride 2", "resnet_50", 6, 1536, 384, 128, 2, batch=64, rounds=0, steps=0),
    curve_steps=300,
)


def quick(plan: Plan) -> Plan:
    """Sizes whose figures say nothing, but which show in seconds that all of it runs."""
    tiny = Setting("PCB-2, 64x32, stride 2", "resnet_18", 2, 32, 64, 32, 2, batch=8, rounds=2, steps=1)
    return Plan(
        settings=(tiny,),
        variants=plan.variants,
        pipeline=tiny,
        pipeline_batches=4,
        extraction=tiny,
        extraction_images=16,
        extraction_rounds=2,
        curve=tiny,
        curve_steps=6,
        identities=24,
        quick=True,
    )


def image_options(identities: int) -> SyntheticOptions:
    """The pedestrians that the images show: JPEG files of 128x64, two of each training identity."""
    return SyntheticOptions(
        train_identities=identities, test_identities=2, cameras=2, images_per_camera=1, distractors=0, junk=0
    )


def params_of(setting: Setting, variant: Variant, images: Path, seed: int = 0) -> Params:
    """A training of the setting on a folder of images in the layout of Market-1501."""
    model = {
        "model": setting.model,
        "last_conv_stride": setting.stride,
        "pcb_n_parts": setting.parts,
        "feature_dim": setting.dim,
    }
    values: dict[str, Any] = {
        "batches_dir": str(images),
        "img_h": setting.height,
        "img_w": setting.width,
        "batch_size": setting.batch,
        "data_augmentation": {"mirror": True, "pad": PAD, "random_erasing": {"probability": ERASING}},
        "model_params": model,
        "precision": variant.precision,
        "compile": variant.compile,
        "evaluation_params": {"batch_size": setting.batch},
        "seed": seed,
    }
    return Params.model_validate(values)


def formats(variants: tuple[Variant, ...]) -> tuple[torch.dtype, ...]:
    """The number formats whose ceilings a comparison needs; float32 always, as losses and optimizer compute in it."""
    needs_bf16 = any(variant.precision == "bf16" for variant in variants)
    return (torch.float32, torch.bfloat16) if needs_bf16 else (torch.float32,)
