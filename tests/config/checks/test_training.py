"""Schedule, optimizer, device, fine tuning: settings that do not go together, and neighbours of theirs that do."""

import pytest

TUNED = {"fine_tune": True, "pretrain_snapshot": "a.pth"}


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (
            {"compile": "graphs", "sync_bn": True},
            ['compile: "graphs" cannot hold what processes tell each other; set "on"'],
        ),
        (
            {"compile": "graphs", "accumulate_steps": 2},
            ["compile: \"graphs\" goes with accumulate_steps 1 only; set \"on\""],
        ),
        ({"parallels": [1, 1]}, ["parallels: names a GPU twice; each process needs one of its own"]),
        ({"epoch": 3, "lr": {"warmup_epoch": 3.5}},
         ["lr.warmup_epoch: 3.5 is longer than the training, epoch 3"]),
        ({"lr": {"decay_step": [3, 3]}}, ["lr.decay_step: the steps of the list must rise"]),
        ({"optimizer": "nesterov", "momentum": 0}, ['optimizer: "nesterov" needs momentum above 0']),
        ({"fine_tune": True},
         ["fine_tune: needs pretrain_snapshot: the frozen layers would keep their initial weights"]),
        (TUNED | {"lr": {"fc_lr": 0}}, ["fine_tune: trains with lr.fc_lr only, and that is 0"]),
        (TUNED | {"tri_loss_lambda_cls": 0, "tri_loss_margin": 1, "batch_sampling_params": "4*2"},
         ["fine_tune: trains classifiers, but tri_loss_lambda_cls is 0 and distillation.lambda_logits too",
          "fine_tune: trains classifiers only, so the triplet loss has nothing to train; set tri_loss_margin to 0"]),
        *((TUNED | {"model_params": {name: 0.3}}, ["fine_tune: keeps all before the classifiers as in evaluation, "
           f"so model_params.{name} does nothing; set that to 0"])
          for name in ("global_feature_erasing", "pcb_dropout")),
        (TUNED | {"distillation": {"teacher": "t.pth", "lambda_embedding": 1}}, ["fine_tune: trains classifiers only, "
         "so distillation.lambda_embedding has nothing to train; set that to 0"]),
    ],
)  # fmt: skip
def test_what_does_not_go_together(desk, content, lines):
    assert desk.conflicts(content) == lines


@pytest.mark.parametrize(
    "content",
    [
        {"parallels": [3]},
        {"parallels": [0, 1]},
        {"compile": "graphs"},
        {"compile": "on", "accumulate_steps": 2},
        {"epoch": 3, "lr": {"warmup_epoch": 3, "decay_step": [1, 2]}},
        {"lr": {"decay_step": 0}},
        {"optimizer": "nesterov", "momentum": 0.1},
        TUNED,
        TUNED | {"model_params": {"feature_dropout": 0.3}},
        TUNED | {"distillation": {"teacher": "t.pth", "lambda_logits": 1}, "tri_loss_lambda_cls": 0},
        TUNED | {"model_params": {"spectral_trans": 0.3}, "batch_sampling_params": "8*4"},
    ],
)
def test_what_goes_together(desk, content):
    assert desk.load(content).params
