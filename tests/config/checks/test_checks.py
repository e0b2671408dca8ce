"""When checks run, and where they show what they find."""

import pytest

PK = {"class_balanced": True, "P": 4, "K": 2}


def test_checks_run_beside_other_mistakes(desk):
    content = {"img_h": "tall", "parallels": [1, 1], "momentum": 2}
    assert desk.conflicts(content) == [
        'img_h: expected a whole number, got "tall"',
        "momentum: expected a number below 1, got 2",
        "parallels: names a GPU twice; each process needs one of its own",
    ]


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
        {"model_params": {"random_drop_branches": 1, "pcb_n_part": 2}},
    ],
)
def test_no_second_mistake_follows_from_the_first(desk, content):
    assert len(desk.mistakes(content)) == 1


def test_a_conflict_is_shown_where_the_key_was_written(desk):
    assert desk.mistakes({"batch_sampling_params": PK, "tri_loss_margin": 0.3}, "batch_size=9") == [
        "--set: batch_size: is 9, but batch_sampling_params.P x batch_sampling_params.K is 4 x 2 = 8; leave it out"
    ]
    assert desk.conflicts({"batch_sampling_params": PK | {"batch_size": 9}})[0].startswith(
        "batch_sampling_params.batch_size: is 9"
    )
    distilled = {"tri_loss_lambda_cls": 0, "distillation": {"teacher": "t.pth", "lambda_logits": 1}}
    assert desk.conflicts(distilled | {"focal_loss": True})[0].startswith("focal_loss: changes the classification loss")
