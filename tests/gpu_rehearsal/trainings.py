"""Small trainings that have, together, every option of network, losses and augmentation; on any device."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.params import Params
from data.cache import DeviceStore
from data.samples import SOURCE_STRIDE, Sample
from engine.batches import TrainBatches
from engine.build import build_losses, prepare_network
from engine.meter import StepValues
from engine.optim import build_optimizer
from engine.run import Run, RunFolder
from engine.schedules import build_schedule
from engine.step import Stepper
from engine.summary import plan_training
from engine.teacher import Teacher
from engine.trainer import ReidTrainer
from evaluate.core.load_model import Trained
from gan.mixing import GeneratedImages
from gan.steps import build_stepper
from losses.camera_proxies import CameraProxies
from losses.cluster_nce import ClusterNCE
from models.backbones.backbone import Backbone
from models.backbones.registry import BackboneEntry
from models.generator import build_generator
from models.network import build_network
from unsupervised.clustering import split_by_camera
from utils.precision import FP32, Precision

PIDS = (0, 1, SOURCE_STRIDE, SOURCE_STRIDE + 1)
"""Of two data sets, where a setting names two."""
IDENTITIES, STEPS_PER_EPOCH = 4, 2
CAMERAS = (0, 1, 2)
EMBEDDING = 12
"""Size of the embeddings that a generator is conditioned on."""

TINY: dict[str, Any] = {
    "img_h": 64, "img_w": 32, "epoch": 6, "precision": "fp32", "log_every": 2,
    "batch_sampling_params": {"class_balanced": True, "P": 4, "K": 2}, "evaluation_params": {"type": None},
    "lr": {"base_lr": 0.01, "fc_lr": 0.02, "warmup_epoch": 1, "decay_step": (6,), "decay_unit": "iteration"},
}  # fmt: skip
ONE: dict[str, Any] = {"model": "resnet_18", "feature_dim": 8}
PARTS: dict[str, Any] = {**ONE, "pcb_n_parts": 2}
BOTH: dict[str, Any] = {**PARTS, "feature_global_dim": 4}
GENERATOR: dict[str, Any] = {"mix_ratio": 0.5, "mix_start_epoch": 1, "input_dim": 4, "ngf": 2, "ndf": 2}
COLOURS: dict[str, Any] = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1, "rotation": 10}

SETTINGS: dict[str, dict[str, Any]] = {
    "one feature": {
        "model_params": {**ONE, "part_pooling": "max"}, "optimizer": "adam",
        "lr": {"base_lr": 0.01, "fc_lr": 0.02, "schedule": "flat_cosine", "flat_epoch": 2, "warmup_steps": 3},
    },
    "a ResNet": {
        "model_params": {**ONE, "model": "resnet_34", "last_conv_stride": 2},
        "batch_sampling_params": {"class_balanced": True, "P": 4, "K": 2, "every_image": True},
    },
    "IBN and non-local blocks": {
        "model_params": {**ONE, "model": "resnet_34", "ibn": True, "non_local": True, "zero_init_residual": True},
        "lr": {"base_lr": 0.01, "fc_lr": 0.02, "layer_decay": 0.5}, "ema_decay": 0.9,
    },
    "fast-reid's ResNet": {
        "model_params": {
            **PARTS, "model": "resnet_34", "non_local": True, "resnet_variant": "fastreid", "part_pooling": "gem_each",
        },
    },
    "a network of timm": {
        "model_params": {**BOTH, "model": "timm:test_efficientnet", "global_own_stage4": True}, "ema_decay": 0.9,
        "lr": {"base_lr": 0.01, "fc_lr": 0.02, "layer_decay": 0.5},
    },
    "a vision transformer": {
        "model_params": {
            **BOTH, "model": "timm:test_vit", "global_own_stage4": True, "patch_stride": 14, "drop_path": 0.5,
        },
        "lr": {"base_lr": 0.01, "fc_lr": 0.02, "layer_decay": 0.5}, "ema_decay": 0.9,
    },
    "TransReID": {
        "model_params": {
            **ONE, "model": "timm:test_vit", "head": "jpm", "patch_stride": 12, "drop_path": 0.5, "feature_dim": 0,
            "neck": "bnneck", "retrieval_of": "features", "camera_embedding": 3.0,
        },
        "tri_loss_margin": "soft_margin", "tri_loss_on": ("global", "parts"), "tri_loss_weights": {"parts": 0.5},
        "classification_weights": {"global": 0.5, "parts": 0.125}, "ema_decay": 0.9,
        "distillation": {"lambda_logits": 1.0, "lambda_embedding": 1.0},
    },
    "a Swin Transformer": {
        "model_params": {
            **BOTH, "model": "timm:swin_tiny_patch4_window7_224", "last_conv_stride": 2, "global_own_stage4": True,
            "drop_path": 0.5, "semantic_weight": 0.2,
        },
        "lr": {"base_lr": 0.01, "fc_lr": 0.02, "layer_decay": 0.5}, "ema_decay": 0.9,
    },
    "an OSNet": {
        "model_params": {**BOTH, "model": "osnet_ain_x0_25", "global_own_stage4": True},
        "lr": {"base_lr": 0.01, "fc_lr": 0.02, "layer_decay": 0.5},
    },
    "MGN": {
        "img_h": 96, "tri_loss_margin": "soft_margin", "tri_loss_of": "embeddings", "classification_loss": "circle",
        "model_params": {
            **ONE, "head": "mgn", "neck": "bnneck", "part_pooling": "gem", "global_pooling": "gem",
            "classifier": "cosine", "cosine_scale": 64.0,
        },
        "tri_loss_on": ("global", "global2", "global3", "concat2", "concat3"), "softmax_margin": 0.35,
        "lr": {"base_lr": 0.01, "fc_lr": 0.02, "layer_decay": 0.5},
    },
    "LightMBN": {
        "model_params": {**ONE, "head": "lightmbn"}, "ema_decay": 0.9,
        "multi_similarity": {"weight": 0.5, "on": ("global", "drop", "global2"), "margin": 0.7},
        "center_loss": {"weight": 0.01, "on": ("channels", "concat2")}, "gather_embeddings": True,
    },
    "the head of CLIP-ReID's baseline": {
        "model_params": {
            "model": "timm:test_vit", "head": "clip", "feature_dim": 8, "neck": "bnneck", "retrieval_of": "features",
        },
        "tri_loss_margin": 0.3, "tri_loss_on": ("global", "projected", "penultimate"), "gather_embeddings": True,
        "center_loss": {"weight": 0.01, "on": ("penultimate",)},
        "lr": {"base_lr": 0.01, "fc_lr": 0.02, "bias_factor": 2.0, "layer_decay": 0.5},
    },
    "one feature, erased and masked": {
        "model_params": {**ONE, "feature_mask": "all", "global_feature_erasing": 0.5, "pcb_dropout": 0.1},
        "data_augmentation": {
            "random_erasing": {"probability": 0.5, "fill": "colour"}, "normalisation": "half",
            "interpolation": "bicubic",
        },
        "tri_loss_margin": 0.3,
    },
    "pooled features, branches unnormalised": {
        "model_params": {
            **PARTS, "feature_dim": 0, "neck": "none", "classifier_bias": True, "part_feature_erasing": 0.5,
        },
        "label_smoothing": 0.1, "optimizer": "nesterov", "decay_norms_and_biases": False,
        "lr": {"base_lr": 0.01, "fc_lr": 0.02, "bias_factor": 2.0, "layer_decay": 0.5},
    },
    "every triplet": {
        "model_params": {
            **BOTH, "global_own_stage4": True, "part_pooling": "gem", "global_pooling": "gem", "neck": "bnneck",
            "embedding_relu": True, "feature_dropout": 0.1, "feature_mask": "global",
        },
        "data_augmentation": {
            **COLOURS, "pad": (4, 2), "noise": 0.1, "random_erasing": {"probability": 0.5, "fill": "noise"},
        },
        "tri_loss_margin": "soft_margin", "tri_loss_on": ("global", "parts", "concat"), "gather_embeddings": True,
        "optimizer": "amsgrad", "clip_grad_norm": 1.0, "ema_decay": 0.5,
    },
    "weighted triplets, focal loss": {
        "model_params": {**BOTH, "neck": "none", "part_pooling": "max", "global_pooling": "avg"},
        "data_augmentation": {
            "resize_h": 72, "resize_w": 36, "mirror": False, "grayscale": 0.1, "grayscale_patch": {"probability": 0.4},
            "brightness": 0.2, "jitter_probability": 0.5, "auto_augment": {"probability": 0.8},
        },
        "tri_loss_margin": 0.3, "tri_loss_on": ("parts", "concat"), "tri_loss_adaptive_weight": True,
        "focal_gamma": 2.0, "optimizer": "rmsprop",
    },
    "scheduled margins": {
        "model_params": {**BOTH, "classifier": "cosine", "cosine_scale": 15.0},
        "softmax_margin": (0.0, 0.1, 0.3), "softmax_margin_step": 3, "optimizer": "adamw",
    },
    "own lengths, a constant margin": {
        "model_params": {**PARTS, "classifier": "cosine"}, "softmax_margin": 0.1, "clip_grad_norm": 0.5,
    },
    "a backbone frozen at first": {
        "model_params": BOTH, "lr": {"base_lr": 0.01, "fc_lr": 0.02, "freeze_backbone_steps": 3}, "ema_decay": 0.9,
    },
    "CircleSoftmax, branches weighted": {
        "model_params": {**BOTH, "classifier": "cosine", "cosine_scale": 64.0},
        "classification_loss": "circle", "softmax_margin": 0.35, "classification_weights": {"global": 0.5},
        "label_smoothing": 0.1, "label_smoothing_over": "others",
    },
    "ArcFace with scheduled margins": {
        "model_params": {**BOTH, "classifier": "cosine", "cosine_scale": 16.0},
        "classification_loss": "arcface", "softmax_margin": (0.1, 0.5), "softmax_margin_step": 3,
    },
    "losses of pairs": {
        "model_params": {**BOTH, "feature_global_dim": "pooled"},
        "circle_pairs": {"weight": 0.5, "on": ("global", "parts"), "weights": {"global": 2.0}},
        "multi_similarity": {"weight": 1.0, "on": ("concat",), "of": "embeddings"},
        "supervised_contrastive": {"weight": 1.0}, "gather_embeddings": True,
    },
    "centers, triplets of embeddings": {
        "model_params": BOTH, "center_loss": {"weight": 0.01, "on": ("global", "parts", "concat")},
        "tri_loss_margin": "soft_margin", "tri_loss_of": "embeddings",
    },
    "classifiers and retrieval before the neck": {
        "model_params": {**BOTH, "neck": "bnneck", "classifier_of": "features", "retrieval_of": "features"},
        "tri_loss_margin": 0.3, "tri_loss_of": "embeddings", "tri_loss_on": ("global", "parts"),
        "tri_loss_weights": {"parts": 0.5},
        "distillation": {"lambda_logits": 1.0, "lambda_embedding": 1.0},
    },
    "random updates": {"model_params": {**BOTH, "random_drop_branches": 1}, "tri_loss_margin": 0.3},
    "updates of the worst": {"model_params": {**BOTH, "update_max_loss_branch": True}},
    "a late spectral transform": {
        "model_params": {**BOTH, "spectral_trans": 0.3, "spectral_start_epoch": 1, "random_drop_branches": 1},
    },
    "distillation": {
        "model_params": BOTH, "distillation": {"lambda_logits": 1.0, "lambda_embedding": 1.0},
        "data_augmentation": {"normalisation": "half"},
    },
    "clusters": {
        "model_params": BOTH, "clustering_params": {"method": "cluster_contrast", "iterations": 2, "momentum": 0.5},
        "tri_loss_lambda_cls": 0, "tri_loss_margin": 0.3,
    },
    "clusters, followed by the hardest": {
        "model_params": BOTH, "tri_loss_lambda_cls": 0, "accumulate_steps": 2, "clustering_params": {
            "method": "cluster_contrast", "iterations": 2, "memory_update": "hard", "min_samples": 2,
        },
    },
    "camera proxies": {
        "model_params": BOTH, "tri_loss_lambda_cls": 0, "accumulate_steps": 2, "clustering_params": {
            "method": "cluster_contrast", "iterations": 2, "proxies": "camera",
        },
    },
    "two data sets": {
        "model_params": {**BOTH, "mixstyle": 0.5}, "batches_dir": ("one", "two"), "tri_loss_margin": 0.3,
        "batch_sampling_params": {"class_balanced": True, "P": 4, "K": 2, "balance": "source"},
    },
    "batches of one data set": {
        "model_params": {**ONE, "mixstyle": 1.0, "mixstyle_alpha": 0.3}, "ema_decay": 0.9,
        "batches_dir": ("one", "two"),
        "batch_sampling_params": {"class_balanced": True, "P": 2, "K": 4, "balance": "one_source"},
    },
    "cameras in a batch": {
        "model_params": {**ONE, "mixstyle": 1.0, "mixstyle_across_cameras": True},
        "batch_sampling_params": {"class_balanced": True, "P": 4, "K": 2, "balance": "camera"},
    },
    "accumulated": {"model_params": BOTH, "accumulate_steps": 2},
    "fine-tuning": {"model_params": BOTH, "fine_tune": True},
    "generated outliers": {"model_params": BOTH, "gan_params": GENERATOR},
    "generated persons": {
        "model_params": {**BOTH, "global_feature_erasing": 0.5, "random_drop_branches": 1}, "tri_loss_margin": 0.3,
        "gan_params": {**GENERATOR, "condition": "a network", "lambda_consistency": 1.0},
    },
    "a generator trained along": {
        "model_params": BOTH, "gan_params": {
            **GENERATOR, "adv_train": True, "penalty_every": 1, "augmentation": ("colour", "translation", "cutout"),
        },
    },
}  # fmt: skip
SECOND_GRAPH = (
    "a backbone frozen at first", "a late spectral transform",
    "generated outliers", "generated persons", "a generator trained along",
)  # fmt: skip
"""Settings in which something begins in the second epoch: the backbone, the spectral transform, or larger batches."""


class TinyBackbone(Backbone):
    """A convolution, and a last stage of another, in place of resnet_18's twenty."""

    def __init__(self) -> None:
        super().__init__(6, (("first",), ("last_stage",)))
        self.before_last = ("first",)
        self.first = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4, padding=2, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.last_stage = nn.Sequential(nn.Conv2d(4, 6, 5, stride=4, padding=2), nn.BatchNorm2d(6), nn.ReLU())

    def add_style_mixing(self, mixing: nn.Module) -> None:
        self.style_mixing = mixing

    def trunk(self, images: Tensor, camids: Tensor | None = None) -> Tensor:
        return self.mix_styles(self.run(self.before_last, images), camids)


TINY_ENTRY = BackboneEntry(lambda *_: TinyBackbone())


def make_trainer(
    setting: str, device: torch.device, precision: Precision = FP32, compile_mode: Literal["on", "off"] = "off"
) -> ReidTrainer:
    """The trainer of a setting; all images lie on the device, and identities are the clusters of one without labels."""
    params = Params.model_validate({**TINY, **SETTINGS[setting]})
    labels = torch.arange(IDENTITIES).repeat(2 * STEPS_PER_EPOCH * params.accumulate_steps)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (len(labels), *params.resize_to, 3), dtype=torch.uint8)
    teacher = _teacher(device) if params.distillation.lambda_logits else None
    extra_images = _generated_images(params, len(labels), device) if params.num_generated else None
    num_classes = 0 if params.is_unsupervised else IDENTITIES
    network = build_network(params.model_params, num_classes, (params.img_h, params.img_w), CAMERAS)
    network = prepare_network(network, params, device)
    criterion = build_losses(params, network, teacher, len(labels), PIDS).to(device)
    camids = torch.arange(len(labels)) % len(CAMERAS)
    for loss in criterion.values():
        if isinstance(loss, ClusterNCE):
            loss.begin_epoch(F.normalize(torch.randn(IDENTITIES, network.embedding_dim), dim=1))
        elif isinstance(loss, CameraProxies):
            _, *pairs = split_by_camera(labels, camids)
            loss.begin_epoch(F.normalize(torch.randn(len(pairs[0]), network.embedding_dim), dim=1), *pairs)
    asks = network.camids, params.batch_sampling_params.balance, params.model_params.mixstyle_across_cameras
    camids = camids if any(asks) or "cameras" in criterion.needs else None
    if camids is not None and len(params.sources) > 1:
        camids += labels // 2 * SOURCE_STRIDE  # as PIDS
    train = [Sample(Path(), label, 0) for label in labels.tolist()]
    plan, store, paths = plan_training(params, train, device), DeviceStore(images.to(device)), [Path()]
    return ReidTrainer(
        Run(params, RunFolder("", ""), device, plan, {}),
        TrainBatches(params, paths, labels, [*range(IDENTITIES)], store, FP32, device, teacher, extra_images, camids),
        Stepper(
            network,
            criterion,
            build_optimizer(params, network, criterion),
            precision,
            compile_mode,
            params.clip_grad_norm,
            params.ema_decay,
        ),
        build_schedule(params, plan.steps_per_epoch, plan.num_epochs * plan.steps_per_epoch),
        None,
    )


def train(
    trainer: ReidTrainer, num_epochs: int, in_steps: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[list[StepValues]]:
    """Train so many epochs, their steps within a context; yields after each the values of its steps."""
    for _ in range(num_epochs):
        trainer.meter.begin_epoch()
        trainer.begin_epoch()
        with in_steps():
            for batches in trainer.load_steps():
                trainer.train_step(batches)
                trainer.step += 1
        yield trainer.meter.collect()
        trainer.epoch += 1
        trainer.end_epoch(trainer.meter.means())


def _teacher(device: torch.device) -> Teacher:
    """Of another size, for other images."""
    params = Params.model_validate({**TINY, "img_h": 32, "img_w": 16, "model_params": ONE})
    return Teacher(Trained(params, range(IDENTITIES), build_network(params.model_params, IDENTITIES), {}), device)


def _generated_images(params: Params, num_images: int, device: torch.device) -> GeneratedImages:
    if params.gan_params.adv_train:
        learner = build_stepper(params, None, device)
        return GeneratedImages(params, learner.average, None, learner, None)
    conditions = torch.randn(num_images, EMBEDDING).to(device) if params.gan_params.condition else None
    generator = build_generator(params.gan_params, 0 if conditions is None else EMBEDDING).eval().to(device)
    return GeneratedImages(params, generator, conditions, None, None)
