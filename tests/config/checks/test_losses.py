"""Losses: settings that do not go together, and neighbours of theirs that do."""

import pytest

PK = {"class_balanced": True, "P": 4, "K": 2}
TRIPLET = {"tri_loss_margin": 0.3, "batch_sampling_params": PK}
COSINE = {"classifier": "cosine"}
NO_CLS = "tri_loss_lambda_cls: is 0, and tri_loss_margin or tri_loss_lambda_tri is 0 too: no loss is left to train with"
NO_EFFECT = "changes the classification loss, but tri_loss_lambda_cls is 0; set one of them"
NO_TEACHER = "needs distillation.teacher, the network to learn from"
NO_TRIPLET = (
    "tri_loss_adaptive_weight: weighs the triplet loss, but tri_loss_margin or tri_loss_lambda_tri is 0"
)  # fmt: skip


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ({"tri_loss_margin": "soft_margin"}, ["tri_loss_margin: the triplet loss needs "
         'batch_sampling_params.class_balanced true, as with "8*4"; set it, or set 0 here']),
        ({"tri_loss_margin": 0.3, "batch_sampling_params": "64*1"}, ["tri_loss_margin: the triplet loss needs "
         'batch_sampling_params.class_balanced true, as with "8*4"; set it, or set 0 here']),
        (TRIPLET | {"batch_sampling_params": PK | {"K": 1}}, ["batch_sampling_params.K: the triplet loss "
         "(tri_loss_margin 0.3) needs at least 2 images of an identity, got K 1"]),
        (TRIPLET | {"batch_sampling_params": "1*4"}, ["batch_sampling_params: the triplet loss "
         "(tri_loss_margin 0.3) needs at least 2 identities, got P 1"]),
        ({"tri_loss_lambda_cls": 0}, [NO_CLS]),
        ({"tri_loss_lambda_cls": 0, "tri_loss_margin": 1, "tri_loss_lambda_tri": 0}, [NO_CLS]),
        ({"tri_loss_on": ["global", "parts", "parts"]}, ['tri_loss_on: names "parts" more than once',
         'tri_loss_on: "parts" needs stripes, but model_params.pcb_n_parts is 0; use "global"']),
        ({"tri_loss_on": ["concat"]},
         ['tri_loss_on: "concat" needs stripes, but model_params.pcb_n_parts is 0; use "global"']),
        (TRIPLET | {"model_params": {"pcb_n_parts": 4}},
         ['tri_loss_on: "global" needs a global branch beside the 4 stripes of model_params.pcb_n_parts; give '
          'model_params.feature_global_dim, or use "parts" or "concat"']),
        ({"tri_loss_adaptive_weight": True}, [NO_TRIPLET]),
        (
            {"gather_embeddings": True},
            ["gather_embeddings: is for the triplet loss, but tri_loss_margin or tri_loss_lambda_tri is 0"],
        ),
        (TRIPLET | {"tri_loss_adaptive_weight": True, "tri_loss_lambda_tri": 0}, [NO_TRIPLET]),
        ({"softmax_margin": [], "model_params": COSINE}, ["softmax_margin: the list has no margins; use 0 for none"]),
        ({"softmax_margin": [0, 0.1, 0.3], "model_params": COSINE}, ["softmax_margin: the list needs "
         "softmax_margin_step, the iterations for which each of its 3 margins holds"]),
        ({"softmax_margin": 0.3, "softmax_margin_step": 9, "model_params": COSINE},
         ["softmax_margin_step: needs a list of margins, but softmax_margin is the single number 0.3"]),
        ({"softmax_margin_step": 9},
         ["softmax_margin_step: needs a list of margins, but softmax_margin is the single number 0"]),
        ({"softmax_margin": 0.3},
         ['softmax_margin: is taken off a cosine, but model_params.classifier is not "cosine"; set that, '
          "or 0 here"]),
        ({"softmax_margin": [0, 0.3], "softmax_margin_step": 9},
         ['softmax_margin: is taken off a cosine, but model_params.classifier is not "cosine"; set that, '
          "or 0 here"]),
        ({"model_params": {"cosine_scale": 15}}, ["model_params.cosine_scale: is the scale of a cosine classifier, but "
         'model_params.classifier is not "cosine"']),
        ({"model_params": COSINE | {"classifier_bias": True}}, ["model_params.classifier: a cosine classifier has no "
         "bias; set model_params.classifier_bias to false"]),
        (TRIPLET | {"softmax_margin": 0.1, "focal_gamma": 2, "label_smoothing": 0.1, "tri_loss_lambda_cls": 0,
                    "model_params": COSINE},
         [f"softmax_margin: {NO_EFFECT}", f"focal_gamma: {NO_EFFECT}", f"label_smoothing: {NO_EFFECT}"]),
        ({"distillation": {"lambda_logits": 1, "lambda_embedding": 1}},
         [f"distillation.lambda_logits: {NO_TEACHER}", f"distillation.lambda_embedding: {NO_TEACHER}"]),
        ({"distillation": {"teacher": "t.pth"}}, ["distillation.teacher: teaches nothing: distillation.lambda_logits "
         "and distillation.lambda_embedding are 0"]),
        ({"distillation": {"teacher": "t.pth"}, "tri_loss_lambda_cls": 0}, [NO_CLS, "distillation.teacher: teaches "
         "nothing: distillation.lambda_logits and distillation.lambda_embedding are 0"]),
    ],
)  # fmt: skip
def test_what_does_not_go_together(desk, content, lines):
    assert desk.conflicts(content) == lines


@pytest.mark.parametrize(
    "content",
    [
        {"tri_loss_margin": 0.3, "tri_loss_lambda_tri": 0},
        {"tri_loss_margin": "soft_margin", "batch_sampling_params": "2*2", "tri_loss_lambda_cls": 0},
        {"tri_loss_on": ["global"], "model_params": {"pcb_n_parts": 4}},
        TRIPLET | {"tri_loss_adaptive_weight": True},
        TRIPLET | {"gather_embeddings": True},
        {"softmax_margin": [0, 0.3], "softmax_margin_step": 9, "model_params": COSINE | {"cosine_scale": 15}},
        {"softmax_margin": [0.3], "model_params": COSINE},
        {"softmax_margin": [0.3], "softmax_margin_step": 9, "model_params": COSINE},
        {"softmax_margin": [0, 0], "softmax_margin_step": 9},
        {"model_params": COSINE},
        {"model_params": {"classifier_bias": True}},
        TRIPLET | {"tri_loss_lambda_cls": 0},
        {"focal_gamma": 2},
        {"distillation": {"teacher": "t.pth", "lambda_logits": 1}, "tri_loss_lambda_cls": 0},
        {"distillation": {"teacher": "t.pth", "lambda_embedding": 1}, "tri_loss_lambda_cls": 0},
    ],
)
def test_what_goes_together(desk, content):
    assert desk.load(content).params
