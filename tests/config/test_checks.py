"""Settings that do not go together, and similar ones that do."""

import pytest

PK = {"class_balanced": True, "P": 4, "K": 2}
EVALUATION = {"type": "market_evaluate"}
TRIPLET = {"tri_loss_margin": 0.3, "batch_sampling_params": PK}
COSINE = {"classifier": "cosine"}
SCALED = COSINE | {"cosine_scale": 64}
CLASSIFICATION = {
    "softmax_margin": 0.1, "focal_gamma": 2, "label_smoothing": 0.1, "classification_loss": "circle",
    "classification_weights": {"global": 2},
}  # fmt: skip
SIDES_BEFORE = {"classifier_of": "features", "retrieval_of": "features"}
SIDES = tuple(f"model_params.{name}" for name in SIDES_BEFORE)
NO_NECK = SIDES_BEFORE | {"neck": "none"}
PARTS = {"pcb_n_parts": 4}
BOTH = {"pcb_n_parts": 4, "feature_global_dim": 64}
TALL = {"img_h": 192}
MGN = {"head": "mgn"}
CLIP = {"head": "clip", "model": "timm:test_vit"}
SPECTRAL = {"batch_sampling_params": "8*4", "model_params": {"spectral_trans": 0.3}}
MIXED = {"mix_ratio": 0.5, "pretrain_snapshot_g": "gan"}
ALONG = {"mix_ratio": 0.5, "adv_train": True}
FLAT = {"schedule": "flat_cosine"}
TUNED = {"fine_tune": True, "pretrain_snapshot": "a.pth"}
PAIRS = ("circle_pairs", "multi_similarity", "supervised_contrastive")
NO_CLS = {"tri_loss_lambda_cls": 0}
MAX_LOSS = {"update_max_loss_branch": True}
TAUGHT = {"distillation": {"teacher": "t.pth"}}
METHOD = "clustering_params.method"
UNLABELLED = {"batch_sampling_params": PK} | NO_CLS


def clusters(**options):
    return UNLABELLED | {"clustering_params": {"method": "cluster_contrast", **options}}


def model(**options):
    return {"model_params": options}


def gan(**options):
    return {"gan_params": options}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # Data sets
        ({"batches_dir": ["a", "a"]}, ['batches_dir: names "a" twice']),
        ({"batches_dir": []}, ["batches_dir: names no data set"]),
        ({"batches_dir": ["a", ""]}, ["batches_dir: names no data set"]),
        ({"test_dirs": [""]}, ["test_dirs: names no data set"]),
        (
            {"batches_dir": ["a", "b"], "test_dirs": ["c"], "evaluation_params": {"same_cameras": True}},
            ['evaluation_params.same_cameras: "c"'],
        ),
        ({"test_dirs": ["a", "a"]}, ['test_dirs: names "a" twice']),
        (
            {"batches_dir": ["x/a", "b"], "evaluation_params": EVALUATION | {"score_of": "A"}},
            ['evaluation_params.score_of: no test set "A"; did you mean "a"? Allowed: "a", "b"'],
        ),
        (
            {"batches_dir": "a", "evaluation_params": EVALUATION | {"score_of": "a"}},
            ["evaluation_params.score_of: there is one"],
        ),
        (
            {"batches_dir": ["a", "b"], "batch_sampling_params": {"balance": "source"}},
            ["batch_sampling_params.balance: is for P x K sampling"],
        ),
        (
            {"batch_sampling_params": PK | {"balance": "one_source"}},
            ['batch_sampling_params.balance: "one_source" is for several data sets'],
        ),
        (
            {"batches_dir": ["a", "b", "c"], "batch_sampling_params": PK | {"balance": "source"}},
            ["batch_sampling_params.P: by 3 data sets; use 3 or 6"],
        ),
        (
            {"batch_sampling_params": PK | {"K": 1, "balance": "camera"}},
            ["batch_sampling_params.balance: K is 1"],
        ),
        # Batches and augmentation
        ({"batch_sampling_params": PK, "batch_size": 9}, ["batch_size: is 9, but P x K"]),
        ({"batch_sampling_params": "4*2", "batch_size": 9}, ["batch_size: is 9, but P x K"]),
        ({"batch_sampling_params": PK | {"P": 9000}}, ["batch_sampling_params.P: 9000 x 2 = 18000"]),
        ({"batch_sampling_params": PK | {"P": 1, "K": 1}, "batch_size": 9}, ["batch_sampling_params.P: 1 x 1 = 1"]),
        ({"batch_sampling_params": "1*1"}, ["batch_sampling_params: 1 x 1 = 1"]),
        ({"batch_sampling_params": {"every_image": True}}, ["batch_sampling_params.every_image: is for P x K"]),
        (
            {"data_augmentation": {"resize_h": 235, "resize_w": 100, "pad": 10}},
            ["data_augmentation.resize_h: the crop, img_h 256", "data_augmentation.resize_w: the crop, img_w 128"],
        ),
        (
            {"data_augmentation": {"random_erasing": {"min_area": 0.5}}},
            ["data_augmentation.random_erasing.min_area: 0.5 is above data_augmentation.random_erasing.max_area 0.4"],
        ),
        (
            {"data_augmentation": {"grayscale_patch": {"probability": 0.4, "max_area": 0.01}}},
            ["data_augmentation.grayscale_patch.min_area: is above data_augmentation.grayscale_patch.max_area 0.01"],
        ),
        (
            {"data_augmentation": {"grayscale_patch": {"max_area": 0.2}}},
            ["data_augmentation.grayscale_patch.max_area: grayscale_patch.probability is 0"],
        ),
        (
            {"data_augmentation": {"jitter_probability": 0.5, "rotation": 10}},
            ["data_augmentation.jitter_probability: has no effect: brightness, contrast, saturation and hue are 0"],
        ),
        # Without labels
        (clusters() | {"tri_loss_lambda_cls": 1}, [f"tri_loss_lambda_cls: {METHOD} trains without labels"]),
        (clusters() | {"batch_sampling_params": "8*1"}, ["batch_sampling_params: must be true"]),
        (clusters() | {"center_loss": {"weight": 0.1}}, [f"center_loss.weight: {METHOD}"]),
        (
            clusters() | model(spectral_trans=0.3),
            [f"model_params.spectral_trans: {METHOD}", "model_params.spectral_trans: tri_loss_lambda_cls"],
        ),
        (
            clusters() | {"distillation": {"teacher": "t.pth", "lambda_embedding": 1}},
            [f"distillation.teacher: {METHOD}"],
        ),
        (
            clusters() | gan(**MIXED),
            [f"gan_params.mix_ratio: {METHOD}", "gan_params.mix_ratio: tri_loss_lambda_cls is 0"],
        ),
        (
            clusters() | {"batches_dir": ["a", "b"], "batch_sampling_params": PK | {"balance": "source"}},
            [f"batch_sampling_params.balance: {METHOD}"],
        ),
        (clusters(k1=4), ["clustering_params.k2: 6 is more than the 4 images of clustering_params.k1"]),
        (clusters(weight=0), ["tri_loss_lambda_cls: no loss is left"]),
        (
            clusters(weight=0, momentum=0.5) | {"tri_loss_margin": 0.3},
            ["clustering_params.momentum: clustering_params.weight is 0"],
        ),
        (
            clusters(weight=0, proxies="camera") | {"tri_loss_margin": 0.3},
            ["clustering_params.proxies: clustering_params.weight is 0"],
        ),
        (clusters(distance="cosine", k1=20), ['clustering_params.k1: clustering_params.distance is "cosine"']),
        (clusters(distance="cosine", probes=8), ['clustering_params.probes: clustering_params.distance is "cosine"']),
        ({"clustering_params": {"eps": 0.5}}, [f"clustering_params.eps: {METHOD} is null"]),
        # Losses
        ({"tri_loss_margin": "soft_margin"}, ["tri_loss_margin: class_balanced true"]),
        (TRIPLET | {"batch_sampling_params": "64*1"}, ["tri_loss_margin: class_balanced true"]),
        (TRIPLET | {"batch_sampling_params": PK | {"K": 1}}, ["batch_sampling_params.K: at least 2 images"]),
        (TRIPLET | {"batch_sampling_params": "1*4"}, ["batch_sampling_params: at least 2 identities"]),
        (NO_CLS, ["tri_loss_lambda_cls: no loss is left"]),
        (NO_CLS | {"tri_loss_margin": 1, "tri_loss_lambda_tri": 0}, ["tri_loss_lambda_cls: no loss is left"]),
        ({"tri_loss_on": ["global", "parts", "parts"]}, ["tri_loss_on: more than once", "tri_loss_on: needs stripes"]),
        ({"tri_loss_on": ["concat"]}, ['tri_loss_on: "concat" needs stripes']),
        (TRIPLET | model(**PARTS), ['tri_loss_on: "global" needs a global branch']),
        ({"tri_loss_adaptive_weight": True}, ["tri_loss_adaptive_weight: is for the triplet loss"]),
        ({"gather_embeddings": True}, ["gather_embeddings: is for the triplet loss"]),
        (TRIPLET | {"tri_loss_adaptive_weight": True, "tri_loss_lambda_tri": 0}, ["tri_loss_adaptive_weight: is 0"]),
        ({"tri_loss_of": "embeddings"}, ["tri_loss_of: is for the triplet loss"]),
        ({"tri_loss_weights": {"global": 2}}, ["tri_loss_weights: is for the triplet loss"]),
        (TRIPLET | {"tri_loss_weights": {"parts": 2}}, ['tri_loss_weights: "parts" has no such loss; tri_loss_on']),
        ({"center_loss": {"weight": 1, "weights": {"globl": 2}}}, ['center_loss.weights: "globl"']),
        ({"center_loss": {"weights": {"global": 2}}}, ["center_loss.weights: center_loss.weight is 0"]),
        *(({name: {"weight": 1}}, [f"{name}.weight: class_balanced true"]) for name in PAIRS),
        *(
            (
                {name: {"weight": 1}, "batch_sampling_params": PK | {"K": 1}},
                [f"batch_sampling_params.K: {name}.weight"],
            )
            for name in PAIRS
        ),
        ({"circle_pairs": {"scale": 64, "on": ["parts"]}}, [f"circle_pairs.{k}: weight is 0" for k in ("scale", "on")]),
        (NO_CLS | {"center_loss": {"weight": 1}}, ["tri_loss_lambda_cls: no loss is left"]),
        ({"center_loss": {"weight": 1, "on": ["parts"]}}, ['center_loss.on: "parts" needs stripes']),
        ({"center_loss": {"weight": 1}} | model(**PARTS), ["center_loss.on: needs a global branch"]),
        ({"softmax_margin": []} | model(**COSINE), ["softmax_margin: no margins"]),
        ({"softmax_margin": [0, 0.1, 0.3]} | model(**COSINE), ["softmax_margin: each of its 3 margins"]),
        ({"softmax_margin": 0.3, "softmax_margin_step": 9} | model(**COSINE), ["softmax_margin_step: single number"]),
        ({"softmax_margin_step": 9}, ["softmax_margin_step: the single number 0"]),
        ({"softmax_margin": 0.3}, ['softmax_margin: is not "cosine"']),
        ({"softmax_margin": [0, 0.3], "softmax_margin_step": 9}, ['softmax_margin: is not "cosine"']),
        ({"classification_loss": "arcface"} | model(**SCALED), ["classification_loss: such as to 0.5"]),
        (
            {"classification_loss": "circle", "softmax_margin": 0.3},
            ['classification_loss: model_params.classifier "cosine"'],
        ),
        (
            {"classification_loss": "circle", "softmax_margin": 0.3} | model(**COSINE),
            ["classification_loss: model_params.cosine_scale"],
        ),
        ({"label_smoothing_over": "others"}, ["label_smoothing_over: label_smoothing is 0"]),
        ({"label_smoothing_over": "others", "label_smoothing": 0.6}, ["label_smoothing: use 0.5 or less"]),
        ({"classification_weights": {"parts": 2, "global": 2}}, ['classification_weights: no branch "parts"']),
        (
            {"classification_weights": {"glob": 2, "global": 2}} | model(**PARTS),
            [f'classification_weights: no branch "{name}"' for name in ("glob", "global")],
        ),
        (model(cosine_scale=15), ['model_params.cosine_scale: is not "cosine"']),
        (model(**COSINE, classifier_bias=True), ["model_params.classifier: has no bias"]),
        (
            TRIPLET | NO_CLS | CLASSIFICATION | model(**SCALED),
            [f"{key}: changes the classification loss" for key in CLASSIFICATION],
        ),
        (
            {"distillation": {"lambda_logits": 1, "lambda_embedding": 1}},
            [f"distillation.lambda_{name}: needs distillation.teacher" for name in ("logits", "embedding")],
        ),
        (TAUGHT, ["distillation.teacher: is unused"]),
        (NO_CLS | TAUGHT, ["tri_loss_lambda_cls: no loss is left", "distillation.teacher: is unused"]),
        # The network
        (model(feature_dim=255, pcb_n_parts=4), ["model_params.feature_dim: use 252 or 256"]),
        ({"img_h": 250} | model(feature_dim=600, pcb_n_parts=6), ["model_params.pcb_n_parts: img_h use 192 or 288"]),
        ({"img_h": 64} | model(pcb_n_parts=4, last_conv_stride=2), ["model_params.pcb_n_parts: for img_h use 128"]),
        ({"img_h": 16, "img_w": 16} | model(ibn=True), ["model_params.ibn: img_h"]),
        (model(model="timm:resnet18", ibn=True), ["model_params.ibn: model_params.model is timm:resnet18"]),
        (model(model="timm:resnet18", ibn=True, non_local=True), ["model_params.ibn: and model_params.non_local"]),
        (
            model(model="timm:resnet18", ibn=True, non_local=True, resnet_variant="fastreid"),
            ["model_params.ibn: and model_params.non_local and model_params.resnet_variant"],
        ),
        (model(model="timm:resnet18", non_local=True), ["model_params.non_local: changes torchvision's ResNets"]),
        (
            {"imagenet_pretrain": True} | model(model="osnet_x0_25"),
            ["imagenet_pretrain: osnet_x0_25; name a file as pretrain_snapshot"],
        ),
        (model(model="osnet_x0_25", last_conv_stride=2), ["model_params.last_conv_stride: set it to 1"]),
        (model(model="osnet_x0_25", drop_path=0.1), ["model_params.drop_path: networks of timm"]),
        (model(patch_stride=12), ["model_params.patch_stride: vision transformers of timm"]),
        (model(model="timm:test_vit", patch_stride=20), ["model_params.patch_stride: use at most 16"]),
        (
            model(model="timm:test_vit", global_feature_erasing=0.3),
            ["model_params.global_feature_erasing: class token (img_h) has 1"],
        ),
        (
            {"img_h": 200} | model(model="timm:test_vit", feature_dim=250, pcb_n_parts=5),
            ["model_params.pcb_n_parts: img_h use 160 or 240"],
        ),
        # Instance normalisation of one position.
        (
            {"img_h": 28, "img_w": 16} | model(model="osnet_ain_x0_25"),
            ["model_params.model: does not run on images of 28 x 16"],
        ),
        # The map of a ConvNeXt is rounded down: 100 rows of pixels give 3 of stride 32.
        (
            {"img_h": 100} | model(model="timm:convnext_atto", last_conv_stride=2, pcb_n_parts=2),
            ["model_params.pcb_n_parts: (img_h 100, model_params.last_conv_stride 2); for img_h use 64 or 128"],
        ),
        (
            {"img_h": 384} | model(model="timm:test_efficientnet", feature_dim=255, pcb_n_parts=5),
            ["model_params.pcb_n_parts: 5 stripes do not divide the 24 rows of the feature map of timm:test"],
        ),
        (model(model="timm:vgg11", pcb_n_parts=4), ["model_params.last_conv_stride: 1 is impossible for timm:vgg11"]),
        (
            {"img_h": 16, "img_w": 16} | model(model="timm:convnext_atto", last_conv_stride=2, pcb_n_parts=2),
            ["model_params.model: timm:convnext_atto does not run on images of 16 x 16 (img_h, img_w)"],
        ),
        (model(model="timm:naflexvit_base_patch16_gap"), ["model_params.model: is not a feature map"]),
        (
            model(model="timm:convnext_atto", zero_init_residual=True),
            ["model_params.zero_init_residual: timm:convnext_atto (model); set it to false"],
        ),
        ({"img_h": 256} | model(**MGN), ["model_params.head: 2 and 3 stripes do not divide the 16 rows"]),
        (
            model(head="lightmbn", feature_dim=0),
            ["model_params.feature_dim: needs a size with model_params.head"],
        ),
        (TALL | model(**MGN, model="timm:resnet18"), ["model_params.head: model_params.model is timm:resnet18"]),
        (TALL | model(**MGN | BOTH), [f'model_params.{key}: belongs to model_params.head "pcb"' for key in BOTH]),
        (
            model(head="jpm", model="timm:test_vit", part_pooling="gem", pcb_n_parts=2),
            [
                "model_params.part_pooling: has no effect",
                'model_params.pcb_n_parts: belongs to model_params.head "pcb"',
            ],
        ),
        (
            model(head="jpm"),
            ['model_params.head: "jpm" needs a vision transformer (ViT) of timm, but model_params.model is resnet_50;'],
        ),
        (
            model(head="jpm", model="timm:test_vit2"),
            ["model_params.head: (model_params.model) has none"],
        ),
        (model(semantic_weight=0), ["model_params.semantic_weight: is for Swin Transformers of timm"]),
        (
            {"imagenet_pretrain": True}
            | model(semantic_weight=0, model="timm:swin_tiny_patch4_window7_224", last_conv_stride=2),
            ["model_params.semantic_weight: set imagenet_pretrain to false, and pretrain_snapshot"],
        ),
        (model(camera_embedding=3), ["model_params.camera_embedding: but model_params.model is resnet_50; use"]),
        (
            model(camera_embedding=3, head="jpm", model="osnet_x0_25"),
            ["model_params.camera_embedding: needs a vision transformer", 'model_params.head: "jpm" needs a vision'],
        ),
        (
            {"img_h": 32, "img_w": 32} | model(head="jpm", model="timm:test_vit"),
            ["model_params.head: (model_params.model) has 4 of them; use a larger img_h"],
        ),
        (
            model(head="jpm", model="timm:test_vit", patch_stride=17),
            ["model_params.patch_stride: 17 leaves pixels out"],
        ),
        (
            TALL | model(**MGN, spectral_trans=0.1, feature_mask="parts", global_own_stage4=True),
            [f"model_params.{key}: leave" for key in ("global_own_stage4", "feature_mask", "spectral_trans")],
        ),
        (
            TALL | TRIPLET | {"tri_loss_on": ["global", "drop", "parts"]} | model(**MGN),
            [f'tri_loss_on: "{name}" is no feature of model_params.head "mgn"' for name in ("drop", "parts")],
        ),
        (
            TRIPLET | {"tri_loss_on": ["penultimate"]} | model(**MGN, model="resnet_18") | TALL,
            ['tri_loss_on: "penultimate" is no feature of model_params.head "mgn"'],
        ),
        (TRIPLET | {"tri_loss_on": ["penultimate"]}, ['tri_loss_on: "penultimate" is no feature of model_params.head']),
        (
            TRIPLET | {"tri_loss_on": ["parts", "penultimate"]} | model(**CLIP),
            ['tri_loss_on: "parts" is no feature of model_params.head "clip"; there is "global" and "projected"'],
        ),
        (model(**CLIP | {"model": "resnet_50"}), ["model_params.head: model_params.model resnet_50 has none"]),
        (model(**CLIP | {"model": "osnet_x0_25"}), ["model_params.head: model_params.model osnet_x0_25 has none"]),
        (
            model(**CLIP | {"model": "timm:test_vit2"}),
            ["model_params.head: model_params.model timm:test_vit2 has none"],
        ),
        (model(**CLIP, feature_dim=0), ["model_params.feature_dim: needs a size with model_params.head"]),
        (model(**CLIP, global_pooling="gem"), ["model_params.global_pooling: has no effect"]),
        (model(**CLIP, feature_mask="global"), ["model_params.feature_mask: belongs to model_params.head"]),
        (TRIPLET | {"tri_loss_on": ["global2"]}, ['tri_loss_on: "global2" is no feature of model_params.head "pcb"']),
        (
            TALL | {"classification_weights": {"parts": 2}} | model(**MGN),
            ['classification_weights: no branch "parts"; with this model_params.head there is "global" and "global2"'],
        ),
        (model(feature_global_dim=1), ["model_params.feature_global_dim: needs model_params.pcb_n_parts"]),
        (model(**PARTS, global_own_stage4=True), ["model_params.global_own_stage4: needs a global branch"]),
        (model(global_pooling="gem"), ["model_params.global_pooling: or use model_params.part_pooling"]),
        (
            TRIPLET
            | {"tri_loss_of": "embeddings", "circle_pairs": {"weight": 1, "of": "embeddings"}}
            | model(**NO_NECK),
            [f'{key}: with model_params.neck "none"' for key in (*SIDES, "tri_loss_of", "circle_pairs.of")],
        ),
        (model(**SIDES_BEFORE), ["model_params.neck: model_params.classifier_of"]),
        (model(**SIDES_BEFORE, neck="bnneck"), ["model_params.neck: model_params.retrieval_of"]),
        (model(**NO_NECK, embedding_relu=True), ["model_params.embedding_relu: the losses see the features"]),
        (model(feature_mask="parts"), ["model_params.feature_mask: needs model_params.pcb_n_parts"]),
        (model(**PARTS, feature_mask="global"), ["model_params.feature_mask: needs a global branch"]),
        (model(part_feature_erasing=0.3), ["model_params.part_feature_erasing: needs model_params.pcb_n_parts"]),
        (model(**PARTS, global_feature_erasing=0.3), ["model_params.global_feature_erasing: needs a global branch"]),
        # 256 pixels are 16 rows, 4 for each stripe.
        (model(**PARTS, part_feature_erasing=0.1), ["model_params.part_feature_erasing: 0 whole rows"]),
        (model(**PARTS, part_feature_erasing=0.9), ["model_params.part_feature_erasing: 4 whole rows"]),
        ({"img_h": 64} | model(**PARTS, part_feature_erasing=0.5), ["model_params.part_feature_erasing: 2 rows"]),
        (model(global_feature_erasing=0.03), ["model_params.global_feature_erasing: 0 whole rows"]),
        (model(**BOTH, global_feature_erasing=0.97), ["model_params.global_feature_erasing: is 16 whole rows"]),
        (model(random_drop_branches=1), ["model_params.random_drop_branches: at least 2, got 0"]),
        (model(pcb_n_parts=1, **MAX_LOSS), ["model_params.update_max_loss_branch: at least 2, got 1"]),
        (model(**PARTS, **MAX_LOSS, random_drop_branches=1), ["model_params.update_max_loss_branch: both choose"]),
        (TRIPLET | NO_CLS | model(**BOTH, **MAX_LOSS), ["model_params.update_max_loss_branch: classification loss"]),
        # The spectral transform
        (SPECTRAL | {"batch_sampling_params": "32*1"}, ["model_params.spectral_trans: class_balanced true"]),
        (SPECTRAL | {"batch_sampling_params": PK | {"K": 1}}, ["model_params.spectral_trans: K of at least 2"]),
        (SPECTRAL | NO_CLS | {"tri_loss_margin": 1}, ["model_params.spectral_trans: needs the classification loss"]),
        (
            model(spectral_start_epoch=1, spectral_start_accuracy=0.5),
            [f"model_params.spectral_start_{name}: model_params.spectral_trans is 0" for name in ("epoch", "accuracy")],
        ),
        (
            SPECTRAL | {"epoch": 5} | model(spectral_trans=0.3, spectral_start_epoch=5),
            ["model_params.spectral_start_epoch: no epoch of 5"],
        ),
        # Training
        ({"compile": "graphs", "sync_bn": True}, ["compile: sync_bn"]),
        ({"compile": "graphs", "accumulate_steps": 2}, ["compile: accumulate_steps 1 only"]),
        ({"parallels": [1, 1]}, ["parallels: names a GPU twice"]),
        ({"epoch": 3, "lr": {"warmup_epoch": 3.5}}, ["lr.warmup_epoch: 3.5 is longer than the training, epoch 3"]),
        ({"lr": {"decay_step": [3, 3]}}, ["lr.decay_step: must increase"]),
        ({"lr": {"warmup_epoch": 1, "warmup_steps": 9}}, ["lr.warmup_steps: lr.warmup_epoch"]),
        ({"epoch": 3, "lr": FLAT | {"flat_epoch": 3}}, ["lr.flat_epoch: 3 leaves no part of epoch 3"]),
        ({"lr": FLAT}, ["lr.flat_epoch: 0 leaves no part of epoch 60"]),
        (
            {"lr": {"schedule": "cosine", "decay_step": 3, "decay_gamma": 0.5, "decay_unit": "epoch"}},
            [f'lr.decay_{name}: is for lr.schedule "step", but that is "cosine"' for name in ("step", "gamma", "unit")],
        ),
        (
            {"lr": {"end_factor": 0.1, "flat_epoch": 3, "poly_power": 2}},
            ['lr.end_factor: "flat_cosine" or "poly"', 'lr.flat_epoch: "flat_cosine"', 'lr.poly_power: "poly"'],
        ),
        ({"optimizer": "nesterov", "momentum": 0}, ["optimizer: needs momentum above 0"]),
        ({"fine_tune": True}, ["fine_tune: needs pretrain_snapshot"]),
        (TUNED | {"sync_bn": True}, ["sync_bn: has no effect where fine_tune"]),
        (TUNED | {"lr": {"fc_lr": 0}}, ["fine_tune: lr.fc_lr only"]),
        (TUNED | {"lr": {"freeze_backbone_steps": 9}}, ["fine_tune: lr.freeze_backbone_steps has no effect"]),
        ({"lr": {"freeze_backbone_steps": 9}}, ["lr.freeze_backbone_steps: imagenet_pretrain or pretrain_snapshot"]),
        (TUNED | {"lr": {"layer_decay": 0.9}}, ["fine_tune: lr.layer_decay has no effect"]),
        ({"weight_decay": 0, "decay_norms_and_biases": False}, ["decay_norms_and_biases: weight_decay, which is 0"]),
        (TUNED | TRIPLET | NO_CLS, ["fine_tune: tri_loss_lambda_cls is 0", "fine_tune: triplet loss"]),
        (TUNED | model(global_feature_erasing=0.3), ["fine_tune: model_params.global_feature_erasing has no effect"]),
        (TUNED | {"center_loss": {"weight": 1}}, ["fine_tune: set center_loss.weight to 0"]),
        (TUNED | model(pcb_dropout=0.3), ["fine_tune: model_params.pcb_dropout has no effect"]),
        (TUNED | {"distillation": {"teacher": "t.pth", "lambda_embedding": 1}}, ["fine_tune: lambda_embedding"]),
        # The person generator
        (gan(adv_train=True), ["gan_params.adv_train: gan_params.mix_ratio is 0"]),
        (gan(mix_ratio=0.5), ["gan_params.mix_ratio: needs a generator"]),
        ({"batch_size": 8} | gan(**MIXED | {"mix_ratio": 0.0625}), ["gan_params.mix_ratio: at least 0.125"]),
        ({"batch_sampling_params": "4*4"} | gan(**MIXED | {"mix_ratio": 0.03}), ["gan_params.mix_ratio: 0.0625"]),
        ({"epoch": 3} | gan(**MIXED, mix_start_epoch=3), ["gan_params.mix_start_epoch: no epoch of 3"]),
        (
            gan(mix_start_epoch=3, lambda_consistency=0.5),
            [f"gan_params.{name}: gan_params.mix_ratio is 0" for name in ("mix_start_epoch", "lambda_consistency")],
        ),
        (gan(**ALONG, lambda_consistency=0.5), ["gan_params.lambda_consistency: needs gan_params.condition"]),
        (TRIPLET | NO_CLS | gan(**MIXED), ["gan_params.mix_ratio: tri_loss_lambda_cls is 0"]),
        (SPECTRAL | gan(**MIXED), ["gan_params.mix_ratio: the spectral transform"]),
        (TUNED | gan(**MIXED, lambda_consistency=0.5), ["gan_params.lambda_consistency: fine_tune"]),
        (gan(loss="wgan", penalty="none", spectral_norm=False), ["gan_params.loss: needs a penalty"]),
        ({"parallels": [0, 1]} | gan(**ALONG), ["gan_params.adv_train: parallels names 2"]),
    ],
)
def test_what_does_not_go_together(desk, content, expected):
    lines = desk.conflicts(content)
    found = [line.split(": ", 1) for line in lines]
    wanted = [line.split(": ", 1) for line in expected]
    assert sorted(key for key, _ in found) == sorted(key for key, _ in wanted)
    assert all(any(key == other and words in text for other, text in found) for key, words in wanted), lines


@pytest.mark.parametrize(
    "content",
    [
        {"batch_sampling_params": PK, "batch_size": 8},
        {"batch_sampling_params": "4*2", "batch_size": 8},
        {"batch_sampling_params": PK | {"every_image": True}},
        {"batch_sampling_params": {"class_balanced": False, "P": 1, "K": 1}, "batch_size": 9},
        {"data_augmentation": {"resize_h": 236, "resize_w": 108, "pad": 10}},
        {"data_augmentation": {"resize_h": 288}},
        {"tri_loss_margin": 0.3, "tri_loss_lambda_tri": 0},
        {"tri_loss_on": ["global"]} | model(**PARTS),
        TRIPLET | NO_CLS | {"tri_loss_margin": "soft_margin"},
        TRIPLET | {"tri_loss_adaptive_weight": True, "gather_embeddings": True},
        {"softmax_margin": [0, 0.3], "softmax_margin_step": 9} | model(**COSINE, cosine_scale=15),
        {"softmax_margin": [0.3]} | model(**COSINE),
        NO_CLS | {"gather_embeddings": True, "circle_pairs": {"weight": 1}, "batch_sampling_params": PK},
        {"center_loss": {"weight": 0.0005, "on": ["global", "concat"], "of": "embeddings"}} | model(**BOTH),
        {"classification_loss": "arcface", "softmax_margin": [0, 0.5], "softmax_margin_step": 9} | model(**SCALED),
        {"label_smoothing_over": "others", "label_smoothing": 0.1},
        {"classification_weights": {"parts": 0.5, "global": 2}} | model(**BOTH),
        TRIPLET | {"tri_loss_on": ["parts", "global"], "tri_loss_weights": {"parts": 0.5}} | model(**BOTH),
        {"classification_weights": {"global": 2}} | model(**BOTH | {"feature_global_dim": "pooled"}),
        TALL | TRIPLET | {"tri_loss_on": ["global", "global3", "concat2"]} | model(**MGN, global_pooling="gem"),
        {"classification_weights": {"drop": 2, "channels": 0.5}} | model(head="lightmbn", model="osnet_x0_25"),
        TRIPLET | {"tri_loss_on": ["global", "projected", "penultimate"]} | model(**CLIP, retrieval_of="features"),
        {"classification_weights": {"projected": 2}, "center_loss": {"weight": 1, "on": ["penultimate"]}}
        | model(**CLIP),
        {"classification_weights": {"parts": 0.5}} | model(head="jpm", model="timm:test_vit", patch_stride=15),
        model(camera_embedding=3, model="timm:test_vit2", pcb_n_parts=2),
        {"softmax_margin": [0, 0], "softmax_margin_step": 9},
        model(classifier_bias=True),
        {"focal_gamma": 2},
        NO_CLS | {"distillation": {"teacher": "t.pth", "lambda_logits": 1}},
        NO_CLS | {"distillation": {"teacher": "t.pth", "lambda_embedding": 1}},
        {"img_h": 384} | model(feature_dim=1536, pcb_n_parts=6, feature_global_dim=256),
        {"img_h": 369} | model(feature_dim=600, pcb_n_parts=6),
        model(**BOTH, feature_dim=0),
        {"img_h": 17, "img_w": 16} | model(ibn=True, non_local=True),
        model(**BOTH, global_own_stage4=True, global_pooling="gem"),
        model(**SIDES_BEFORE | {"retrieval_of": "embeddings"}),
        model(**SIDES_BEFORE | {"classifier_of": "embeddings"}, neck="bnneck"),
        TRIPLET | {"tri_loss_of": "embeddings"} | model(**SIDES_BEFORE),
        TRIPLET | model(neck="none", embedding_relu=True, retrieval_of="features"),
        model(feature_mask="all"),
        model(feature_mask="global", global_feature_erasing=0.1),
        model(**PARTS, feature_mask="all"),
        model(**PARTS, feature_mask="parts", part_feature_erasing=0.3, random_drop_branches=6),
        model(**BOTH, feature_mask="global", part_feature_erasing=0.8, global_feature_erasing=0.9),
        model(pcb_n_parts=2, **MAX_LOSS),
        SPECTRAL,
        {"batch_sampling_params": {"class_balanced": True, "K": 2}} | model(spectral_trans=1),
        SPECTRAL | {"epoch": 5} | model(spectral_trans=0.3, spectral_start_epoch=4, spectral_start_accuracy=0.9),
        {"parallels": [0, 1], "compile": "graphs"},
        {"compile": "on", "accumulate_steps": 2},
        {"epoch": 3, "lr": {"warmup_epoch": 3, "decay_step": [1, 2]}},
        {"epoch": 3, "lr": FLAT | {"flat_epoch": 2.9, "end_factor": 0.1, "warmup_steps": 2000}},
        {"imagenet_pretrain": True, "clip_grad_norm": 1, "lr": {"freeze_backbone_steps": 9}},
        {"lr": {"schedule": "poly", "poly_power": 0.9, "decay_step": 40}},
        {"lr": {"decay_step": 0}, "optimizer": "nesterov", "momentum": 0.1},
        TUNED | model(feature_dropout=0.3),
        TUNED | NO_CLS | {"distillation": {"teacher": "t.pth", "lambda_logits": 1}},
        TUNED | SPECTRAL,
        clusters(),
        clusters() | {"batches_dir": ["a", "b"], "batch_sampling_params": PK | {"balance": "camera"}},
        clusters(distance="cosine", eps=0.3, min_samples=2, memory_update="hard", momentum=1),
        clusters(weight=0) | {"tri_loss_margin": 0.3, "supervised_contrastive": {"weight": 1}},
        gan(**ALONG, pretrain_snapshot_g="gan", pretrain_snapshot_d="gan"),
        gan(**MIXED, lambda_consistency=0.5),  # the snapshot says by what it is conditioned
        gan(**ALONG, lambda_consistency=0.5, condition="run"),
        {"batch_size": 8} | gan(**MIXED | {"mix_ratio": 0.07}),
        {"epoch": 3} | gan(**MIXED, mix_start_epoch=2),
        {"parallels": [0, 1]} | gan(**MIXED),
        {"parallels": [1]} | gan(**ALONG),
        # For train_gan, which re-ID training would not accept with generated images.
        gan(condition="run", pretrain_snapshot_g="gan", measured_by="none"),
        # An adapted model's params keep what changed the classification loss.
        clusters() | CLASSIFICATION | model(**SCALED),
    ],
)
def test_what_goes_together(desk, content):
    assert desk.load(content).params


def test_checks_run_beside_other_mistakes(desk):
    keys = [line.split(":")[0] for line in desk.conflicts({"img_h": "tall", "parallels": [1, 1], "momentum": 2})]
    assert keys == ["img_h", "momentum", "parallels"]


@pytest.mark.parametrize(
    "content",
    [
        {"tri_loss_margin": 1, "batch_sampling_params": {"clas_balanced": True}},
        {"tri_loss_margin": 1, "batch_sampling_params": {"class_balanced": "yes"}},
        {"tri_loss_margin": 1, "batch_sampling_params": [True]},
        {"tri_loss_margin": 1, "batch_sampling_params": "8x4"},
        {"tri_loss_margin": 1, "class_balanced": True},
        {"batch_sampling_params": {"class_balanced": True, "P": "4"}, "batch_size": 9},
        {"tri_loss_lambda_cls": 0, "distillation": {"lambda_logit": 1}},
        model(random_drop_branches=1, pcb_n_part=2),
    ],
)
def test_no_second_mistake_follows_from_the_first(desk, content):
    assert len(desk.mistakes(content)) == 1


def test_a_conflict_is_shown_where_the_key_was_written(desk):
    (line,) = desk.mistakes(TRIPLET, "batch_size=9")
    assert line.startswith("--set: batch_size: is 9")
    old = {"batch_sampling_params": {"class_balanced": True, "K": 2, "batch_size": 9}}
    assert desk.conflicts(old)[0].startswith("batch_sampling_params.batch_size: is 9")
    distilled = {"focal_loss": True, "distillation": {"teacher": "t.pth", "lambda_logits": 1}}
    assert desk.conflicts(NO_CLS | distilled)[0].startswith("focal_loss: changes the classification loss")
