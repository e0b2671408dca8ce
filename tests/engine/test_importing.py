"""Checkpoints of other frameworks give those frameworks' embeddings, on the same pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from config.eval_params import EvalParams
from config.load import params_from_dict
from data.augmentation.normalisation import normalise
from data.decoding import decode_bytes
from engine.importing import import_weights
from engine.teacher import load_teacher
from evaluate.core.load_model import load_trained_network
from evaluate.core.plugins import plugin_options
from models.importers.registry import import_state
from models.importers.weights import COUNTER
from models.network import build_network
from models.options import ModelParams
from models.pretrained import load_snapshot
from tests import foreign
from tests.foreign import fastreid, solider, torchreid, transformers
from utils.checkpoint import load_checkpoint
from utils.errors import DataError, ParamsError, UserError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5,) * 3, (0.5,) * 3
BOT, SBS, PLAIN = (256, 128), (384, 128), (256, 128)
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
MGN_ORDER = [0, 1, 3, 4, 2, 5, 6, 7]
"""fast-reid's places of the features that are global, global2, parts2, global3, parts3 here."""

SMALLER = ["img_h=96", "img_w=48"]

Network = tuple[str, Callable[[], nn.Module], tuple[int, int], tuple, Image.Resampling]
NETWORKS: dict[str, Network] = {
    "BoT": ("fastreid", lambda: fastreid.FastReidBaseline("resnet18"), BOT, IMAGENET, BICUBIC),
    "BoT with IBN and a reduction": (
        "fastreid",
        lambda: fastreid.FastReidBaseline("resnet18", ibn=True, dim=16),
        BOT,
        IMAGENET,
        BICUBIC,
    ),
    "AGW": ("fastreid", lambda: fastreid.FastReidBaseline("resnet50", "fixed", False, (2, 3)), BOT, IMAGENET, BICUBIC),
    "SBS": ("fastreid", lambda: fastreid.FastReidBaseline("resnet18", "trained"), SBS, IMAGENET, BICUBIC),
    "MGN": ("fastreid", lambda: fastreid.FastReidMGN("resnet34", 512, 8), (96, 48), IMAGENET, BICUBIC),
    "OSNet": ("torchreid", lambda: torchreid.TorchreidOSNet("bn", 0.25), PLAIN, IMAGENET, BILINEAR),
    "OSNet x1.0": ("torchreid", lambda: torchreid.TorchreidOSNet("bn", 1.0), PLAIN, IMAGENET, BILINEAR),
    "OSNet-IBN": ("torchreid", lambda: torchreid.TorchreidOSNet("ibn", 1.0), PLAIN, IMAGENET, BILINEAR),
    "OSNet-AIN": ("torchreid", lambda: torchreid.TorchreidOSNet("ain", 0.5), PLAIN, IMAGENET, BILINEAR),
    "a ResNet": ("torchreid", lambda: torchreid.TorchreidResNet("resnet18", 0), PLAIN, IMAGENET, BILINEAR),
    "a ResNet of 512": ("torchreid", lambda: torchreid.TorchreidResNet("resnet18", 512), PLAIN, IMAGENET, BILINEAR),
    "ViT": ("transreid", lambda: transformers.TransReID(384, 16), PLAIN, HALF, BILINEAR),
    "SIE": ("transreid", lambda: transformers.TransReID(384, 16, cameras=6), PLAIN, HALF, BILINEAR),
    "JPM": ("transreid", lambda: transformers.TransReID(384, 16, jpm=True), PLAIN, HALF, BILINEAR),
    "CLIP-ReID": ("clipreid", transformers.ClipReID, PLAIN, HALF, BILINEAR),
    "SOLIDER": ("solider", solider.Solider, SBS, HALF, BILINEAR),
    "SOLIDER with a reduction": ("solider", lambda: solider.Solider(16), SBS, HALF, BILINEAR),
    "ViT with overlapping patches": ("transreid", lambda: transformers.TransReID(384, 12), PLAIN, HALF, BILINEAR),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Smooth random pictures of another size than any network's."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(2):
        pixels = rng.integers(0, 256, (12, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((90, 200), BICUBIC).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def theirs(network: nn.Module, pictures: list[Path], size: tuple[int, int], statistics: tuple, how) -> Tensor:
    """The embeddings of the other framework, after its own preprocessing."""
    mean, std = (torch.tensor(values)[:, None, None] for values in statistics)
    images = []
    for path in pictures:
        resized = Image.open(path).convert("RGB").resize((size[1], size[0]), how)
        images.append((torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255 - mean) / std)
    with torch.no_grad():
        return network(torch.stack(images))


def ours(path: Path, pictures: list[Path]) -> Tensor:
    """The embeddings of a checkpoint of ours, as its evaluation computes them."""
    trained = load_trained_network(path)
    pixels = [decode_bytes(picture.read_bytes(), trained.params.eval_resize) for picture in pictures]
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return trained.network.eval().embed(normalise(batch, trained.params.data_augmentation.normalisation))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_imported_network_gives_the_other_frameworks_embeddings(
    name: str, tmp_path: Path, pictures: list[Path]
) -> None:
    framework, make, size, statistics, how = NETWORKS[name]
    torch.manual_seed(0)
    network = foreign.randomised(make(), size)
    torch.save({"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, tmp_path / "a")
    out = import_weights(tmp_path / "a", framework, tmp_path / "ours.pth", SMALLER if name == "MGN" else [])
    expected, found = theirs(network, pictures, size, statistics, how), ours(out, pictures)
    if name == "MGN":
        expected = expected.unflatten(1, (8, -1))[:, MGN_ORDER].flatten(1)
    assert expected.std() > 1e-2
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-4)


def test_imported_camera_embeddings_are_those_of_cameras_from_1(tmp_path: Path) -> None:
    network = foreign.randomised(transformers.TransReID(384, 16, jpm=True, cameras=6), (256, 128))
    path = import_weights(saved(network, tmp_path / "theirs.pth"), "transreid", None, [])
    ours = load_trained_network(path).network.eval()
    images = torch.randn(2, 3, 256, 128)
    assert ours.camids == (1, 2, 3, 4, 5, 6)
    with torch.no_grad():
        # Theirs count from 0.
        expected, found = network(images, torch.tensor([0, 4])), ours.embed(images, torch.tensor([1, 5]))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, ours.embed(images), atol=0.01)
    # Wherever the data set lies.
    (params,) = EvalParams(batches_dir="datasets/Market-1501").as_trained(load_trained_network(path).params)
    assert params.evaluation_params.same_cameras


def saved(network: nn.Module, path: Path, **changes: Tensor | None) -> Path:
    """A file with the weights of a network, some of them changed or left out."""
    state = {**network.state_dict(), **changes}
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    return path


@pytest.mark.parametrize("name", ["BoT with IBN and a reduction", "OSNet-AIN", "a ResNet of 512", "JPM"])
def test_no_number_is_lost_or_changed(name: str, tmp_path: Path) -> None:
    """But a bias that is subtracted from a mean."""
    framework, make, *_ = NETWORKS[name]
    path = saved(make(), tmp_path / "theirs.pth")
    state = torch.load(path, weights_only=True)
    imported = import_state(state, framework)
    model = load_checkpoint(import_weights(path, framework, None, [])).model
    own = {key: value for key, value in model.items() if value.numel()}
    assert own.keys() == imported.tensors.keys()
    assert [key for key, value in imported.tensors.items() if not torch.equal(model[key], value)] == []
    assert sorted([*imported.used, *imported.unused]) == sorted(state)
    used = [state[key] for key in imported.used if not key.endswith(COUNTER)]
    found = [value for key, value in own.items() if not key.endswith(COUNTER)]
    if "fc.0.bias" in state:
        assert sum(map(Tensor.numel, found)) == sum(map(Tensor.numel, used)) - 512
    else:
        assert sum(map(sum_of_bits, found)) == sum(map(sum_of_bits, used))


def sum_of_bits(values: Tensor) -> int:
    """In any order the same."""
    return int(values.contiguous().view(torch.int32).long().sum())


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return import_weights(saved(torchreid.TorchreidResNet("resnet18", 8), tmp_path / "a.pth"), "torchreid", None, [])


def test_an_imported_checkpoint_is_a_teacher_and_a_start(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert small.name == "a.pth.imported.pth"
    content = {"model_params": {"model": "resnet_18"}, "distillation": {"teacher": str(small), "lambda_embedding": 1}}
    teacher = load_teacher(params_from_dict(content, "a", plugin_options).params, [3, 5], torch.device("cpu"))
    assert teacher is not None
    assert teacher.embedding_dim == 8
    content["distillation"] |= {"lambda_logits": 1}
    with pytest.raises(DataError, match="was trained on other identities"):
        load_teacher(params_from_dict(content, "a", plugin_options).params, [3, 5], torch.device("cpu"))
    options = load_checkpoint(small).params["model_params"]
    network = build_network(ModelParams.model_validate(options), 2)
    load_snapshot(network, small)
    (left,) = (message for message in caplog.messages if "left as initialised" in message)
    assert "1 tensors of another shape" in left


def test_what_is_used_and_what_is_not_is_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = saved(torchreid.TorchreidOSNet("bn", 0.25), tmp_path / "a.pth")
    import_weights(path, "torchreid", tmp_path / "ours.pth", [])
    used, unused = (next(text for text in caplog.messages if f" {kind}: " in text) for kind in ("used", "unused"))
    assert "conv1.conv.weight, " in used
    assert unused.endswith("2 tensors unused: classifier.weight, classifier.bias")


def osnet() -> nn.Module:
    return torchreid.TorchreidOSNet("bn", 0.25)


def bot() -> nn.Module:
    return fastreid.FastReidBaseline("resnet18")


MISTAKES: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor | None], str, str]] = {
    "another framework": (osnet, {}, "fastreid", "not a network of fast-reid; it looks like .*; use --as torchreid"),
    "another one": (bot, {}, "transreid", "it looks like a network of fast-reid; use --as fastreid"),
    "an unknown network": (lambda: nn.Linear(2, 2), {}, "torchreid", "of no network known here: weight, bias"),
    "an unknown framework": (osnet, {}, "fast-reid", "--as fast-reid: unknown framework; did you mean fastreid?"),
    "a missing tensor": (
        bot,
        {"backbone.layer2.0.conv1.weight": None},
        "fastreid",
        "does not fit resnet_18 .*: backbone.layer2.0.conv1.weight: missing",
    ),
    "a missing tensor of the head": (osnet, {"fc.1.bias": None}, "torchreid", "fc.1.bias is missing"),
    "a tensor of something else": (osnet, {"attention.weight": torch.ones(1)}, "torchreid", "attention.weight: not of"),
    "another shape": (
        osnet,
        {"conv5.conv.weight": torch.ones(128, 4, 1, 1)},
        "torchreid",
        r"backbone.conv5.conv.weight \(128, 4, 1, 1\) instead of \(128, 128, 1, 1\): of another shape",
    ),
    "NaN": (osnet, {"conv5.bn.bias": torch.full((128,), torch.nan)}, "torchreid", "conv5.bn.bias: hold NaN"),
    "squeeze and excitation": (bot, {"backbone.layer1.0.se.fc.0.weight": torch.ones(1)}, "fastreid", "squeeze-and-exc"),
    "a ResNeSt": (bot, {"backbone.conv1.0.weight": torch.ones(1)}, "fastreid", "a ResNeSt of fast-reid"),
    "another depth": (bot, {"backbone.layer4.2.conv1.weight": torch.ones(1)}, "fastreid", r"\(2, 2, 2, 3\) blocks"),
    "other non-local blocks": (
        lambda: fastreid.FastReidBaseline("resnet18", "fixed", False, (1, 1)),
        {"backbone.NL_2.0.g.weight": torch.ones(64, 128, 1, 1)},
        "fastreid",
        "non-local blocks with 64 inner channels; fast-reid's have 1",
    ),
    "another normalisation": (bot, {"pixel_mean": torch.full((1, 3, 1, 1), 127.5)}, "fastreid", "pixel_mean is"),
    "another OSNet": (osnet, {"conv1.conv.weight": torch.ones(24, 3, 7, 7)}, "torchreid", "of kind bn and width 0.375"),
    "other images": (
        lambda: transformers.TransReID(384, 16, size=(112, 48)),
        {},
        "transreid",
        "21 position embeddings, which no images of 256 x 128, .* have",
    ),
    "a ResNet of CLIP": (
        osnet,
        {"image_encoder.layer1.0.conv1.weight": torch.ones(1)},
        "clipreid",
        "a ResNet of CLIP, which is not supported",
    ),
    "fewer blocks": (
        lambda: transformers.TransReID(384, 16),
        {f"base.blocks.11.{key}": None for key in transformers.Block(384, 6).state_dict()},
        "transreid",
        "a transformer of 11 blocks with tokens of 384",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_imported_is_one_message_and_nothing_written(name: str, tmp_path: Path) -> None:
    make, changes, framework, message = MISTAKES[name]
    path = saved(make(), tmp_path / "theirs.pth", **changes)
    with pytest.raises(UserError, match=message):
        import_weights(path, framework, tmp_path / "ours.pth", [])
    assert [entry.name for entry in tmp_path.iterdir()] == ["theirs.pth"]


def test_files_that_cannot_be_read_are_one_message_and_nothing_written(tmp_path: Path, small: Path) -> None:
    torch.save(bot(), tmp_path / "pickled.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    before = sorted(tmp_path.iterdir())
    for name, message in {
        "pickled": r"a pickled \S*FastReidBaseline in it may run code\); save the weights alone",
        "cut": "damaged",
        "nowhere": "no such file",
        "a.pth.imported": "it is a checkpoint of this framework, which needs no import",
    }.items():
        with pytest.raises(DataError, match=message):
            import_weights(tmp_path / f"{name}.pth", "fastreid", tmp_path / "ours.pth", [])
    with pytest.raises(DataError, match="is the file to import"):
        import_weights(tmp_path / "a.pth", "torchreid", tmp_path / "a.pth", [])
    with pytest.raises(ParamsError, match=r"--set: model_params.modle: unknown key"):
        import_weights(tmp_path / "a.pth", "torchreid", tmp_path / "ours.pth", ["model_params.modle=1"])
    with pytest.raises(DataError, match=r"branches.global.bn.*: not of this network"):
        import_weights(tmp_path / "a.pth", "torchreid", tmp_path / "ours.pth", ["model_params.neck=none"])
    assert sorted(tmp_path.iterdir()) == before
