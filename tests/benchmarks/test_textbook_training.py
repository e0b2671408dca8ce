"""The textbook does the framework's work: same network, same loss, same images."""

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms

from benchmarks.speed_settings import CPU_PLAN, Variant, image_options, params_of, quick
from benchmarks.speed_textbook import textbook_network
from benchmarks.textbook_training import ImageFolder, Loop, PartNet, eval_loader, eval_transforms, train_loader
from data.augmentation.normalisation import normalise
from data.cache import build_store
from data.dataset import read_dataset
from data.samples import sorted_pids
from data.synthetic import make_synthetic
from losses.criterion import build_criterion
from models.network import ReidNetwork, build_network

CPU = torch.device("cpu")
SETTING = quick(CPU_PLAN).settings[0]
NUM_CLASSES = 24


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("textbook") / "images", image_options(NUM_CLASSES), workers=1)


def copy_weights(network: ReidNetwork, textbook: PartNet) -> None:
    """Ours into the textbook's, whose backbone is a plain sequence and whose heads are apart."""
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    for name, module in zip(names, textbook.backbone, strict=True):
        module.load_state_dict(getattr(network.backbone, name).state_dict())
    (head,) = network.heads()
    assert head.reduction is not None
    assert head.bn is not None
    for part in range(textbook.num_parts):
        theirs = textbook.heads[part]
        where = slice(part * head.dim, (part + 1) * head.dim)
        with torch.no_grad():
            cast(nn.Linear, theirs.reduction).weight.copy_(head.reduction[part].T)
            cast(nn.Linear, theirs.classifier).weight.copy_(cast(Tensor, head.classifier.weight)[part].T)
            bn = cast(nn.BatchNorm1d, theirs.bn)
            for ours, its in ((head.bn.weight, bn.weight), (head.bn.bias, bn.bias)):
                its.copy_(ours[where])


@pytest.mark.parametrize("parts", [0, 2])
def test_with_our_weights_it_gives_our_logits_losses_and_embeddings(parts: int, images: Path) -> None:
    torch.manual_seed(0)
    setting = SETTING.__class__(**{**SETTING.__dict__, "parts": parts})
    params = params_of(setting, Variant(), images)
    network = build_network(params.model_params, NUM_CLASSES).double().train()
    textbook = textbook_network(setting, NUM_CLASSES).double().train()
    count = [sum(weight.numel() for weight in model.parameters()) for model in (network, textbook)]
    assert count[0] == count[1]
    copy_weights(network, textbook)
    pixels, labels = torch.randn(8, 3, 64, 32, dtype=torch.float64), torch.arange(8) % NUM_CLASSES
    output = network(pixels)
    scores = cast(list[Tensor], textbook(pixels))
    ours = next(iter(output.values())).scores.logits
    torch.testing.assert_close(torch.stack(scores), ours)
    loss = torch.stack(list(build_criterion(params)(output, labels).losses.values())).sum()
    assert Loop(textbook, CPU).step(pixels, labels)[0] == pytest.approx(loss.item(), rel=1e-9)
    copy_weights(network, textbook.eval())
    for module in (*network.modules(), *textbook.modules()):
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
    torch.testing.assert_close(textbook(pixels), network.eval().embed(pixels))


def test_a_step_lowers_the_loss_and_tells_the_accuracy(images: Path) -> None:
    torch.manual_seed(0)
    loop = Loop(textbook_network(SETTING, NUM_CLASSES), CPU)
    pixels, labels = torch.randn(8, 3, 64, 32), torch.arange(8)
    results = [loop.step(pixels, labels) for _ in range(8)]
    assert results[-1][0] < results[0][0] / 2
    assert results[-1][1] == 1.0


def test_images_and_labels_are_those_of_the_framework(images: Path) -> None:
    params = params_of(SETTING, Variant(), images)
    samples = read_dataset(params).train
    folder = ImageFolder(images / "bounding_box_train", eval_transforms(SETTING.height, SETTING.width))
    assert folder.paths == [sample.path for sample in samples]
    assert folder.num_classes == NUM_CLASSES
    pids = sorted_pids(samples)
    assert folder.labels == [pids.index(sample.pid) for sample in samples]
    batch, labels = next(iter(eval_loader(folder, 4, 0, CPU)))
    store = build_store([sample.path for sample in samples], SETTING.height, SETTING.width, "none")
    torch.testing.assert_close(batch, normalise(store.read(range(4)), "imagenet"))
    assert labels.tolist() == folder.labels[:4]


def test_the_training_loader_shows_every_image_once_an_epoch_and_goes_on(images: Path) -> None:
    def number(image: object) -> Tensor:
        return torch.tensor(0)

    folder = ImageFolder(images / "bounding_box_train", transforms.Compose([transforms.Lambda(number)]))
    folder.labels = list(range(len(folder)))
    assert len(folder) == 2 * NUM_CLASSES
    batches = iter(train_loader(folder, 8, 0, CPU))
    epochs = [torch.cat([next(batches)[1] for _ in range(len(folder) // 8)]).tolist() for _ in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(folder)))
    assert epochs[0] != epochs[1]
