import json
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from benchmarks.speed import SETTINGS, VARIANTS, Setting, main, params_of, parse_arguments
from benchmarks.textbook import ImageFolder, PartNet, network_of
from config.params import Params
from data.synthetic.dataset import make_synthetic
from data.synthetic.options import SyntheticOptions
from losses.criterion import build_criterion
from models.network import ReidNetwork, build_network
from utils.errors import ParamsError

NUM_CLASSES = 24


def copy_weights(network: ReidNetwork, textbook: PartNet) -> None:
    """Ours into the textbook's, whose backbone is a plain sequence and whose heads are apart."""
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    for name, module in zip(names, textbook.backbone, strict=True):
        module.load_state_dict(getattr(network.backbone, name).state_dict())
    (head,) = network.heads()
    assert head.reduction is not None
    assert head.bn is not None
    for part, (reduction, bn, classifier) in enumerate(cast(list[nn.Sequential], textbook.heads)):
        where = slice(part * head.dim, (part + 1) * head.dim)
        with torch.no_grad():
            cast(nn.Linear, reduction).weight.copy_(head.reduction[part].T)
            cast(nn.Linear, classifier).weight.copy_(cast(Tensor, head.classifier.weight)[part].T)
            cast(nn.BatchNorm1d, bn).weight.copy_(head.bn.weight[where])
            cast(nn.BatchNorm1d, bn).bias.copy_(head.bn.bias[where])


@pytest.mark.parametrize("parts", [0, 2])
def test_with_our_weights_the_textbook_gives_our_logits_and_loss(parts: int) -> None:
    torch.manual_seed(0)
    setting = Setting("tiny", "resnet_18", parts, 32, 64, 32, 2, 8, 8)
    values = params_of(setting, 8, {})
    params = Params.model_validate(values)
    network = build_network(params.model_params, NUM_CLASSES).double().train()
    textbook = network_of(values, NUM_CLASSES).double().train()
    count = [sum(weight.numel() for weight in model.parameters()) for model in (network, textbook)]
    assert count[0] == count[1]
    copy_weights(network, textbook)
    pixels, labels = torch.randn(8, 3, 64, 32, dtype=torch.float64), torch.arange(8)
    output, scores = network(pixels), textbook(pixels)
    torch.testing.assert_close(torch.stack(scores), next(iter(output.values())).scores.logits)
    ours = torch.stack(list(build_criterion(params)(output, labels).losses.values())).sum()
    theirs = torch.stack([nn.functional.cross_entropy(logits, labels) for logits in scores]).sum()
    torch.testing.assert_close(theirs, ours)


def test_the_textbook_reads_the_images_of_the_settings(tmp_path: Path) -> None:
    few = SyntheticOptions(train_identities=3, cameras=2, images_per_camera=1, test_identities=2, distractors=0, junk=0)
    images = ImageFolder(make_synthetic(tmp_path / "images", few, workers=1) / "bounding_box_train", 64, 32)
    assert (len(images), images.num_classes, sorted(set(images.labels))) == (6, 3, [0, 1, 2])
    pixels, label = images[5]
    assert (pixels.shape, pixels.dtype, label) == ((3, 64, 32), torch.float32, 2)


def test_the_variants_of_a_setting_are_those_asked_for_else_what_suits_the_device() -> None:
    assert parse_arguments(["--device", "cpu"]).variants == ["fp32"]
    assert parse_arguments(["--device", "cuda"]).variants == ["bf16, compiled", "bf16", "fp32"]
    assert parse_arguments(["--setting", "2", "--variants", "bf16, graphs"]).variants == ["bf16, graphs"]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_setting_is_valid_in_every_variant(setting: Setting, variant: str) -> None:
    for device in ("cpu", "cuda"):
        batch = setting.batch_on(device)
        assert Params.model_validate(params_of(setting, batch, VARIANTS[variant])).batch_images == batch


@pytest.mark.slow
def test_the_command_trains_in_turn_and_writes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Setting("tiny", "resnet_18", 2, 32, 64, 32, 2, 8, 8)
    monkeypatch.setattr("benchmarks.speed.SETTINGS", (tiny, *SETTINGS[1:]))
    length = ["--rounds", "2", "--epochs", "2", "--steps", "2"]
    main(["--device", "cpu", "--variants", "bf16", *length, "--out", str(tmp_path / "speed")])
    rows = json.loads((tmp_path / "speed.json").read_text())["tables"][""]
    assert [row[""] for row in rows] == ["bf16", "textbook"]
    assert rows[1]["times textbook"] == [1.0, 1.0]
    assert all(len(row["images/s"]) == 2 and min(row["peak MiB"]) > 100 for row in rows)


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match="no CUDA device"):
        main(["--device", "cuda"])
    for wrong in (["--setting", "9"], ["--epochs", "1"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            main(wrong)
