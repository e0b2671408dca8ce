"""Training as most tutorials write it: what the framework's speed is compared with.

    python -m benchmarks.textbook PARAMS.json IMAGES EPOCHS [--device cuda]

One image at a time through Pillow and torchvision's transforms in the workers of a DataLoader; float32 in torch's
default layout; a Python list of part heads with a cross entropy each; SGD; the loss read at every step. Network, losses
and images are those of `speed.py`. Prints images per second of each epoch as a JSON list.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

from utils.process import num_cpus


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """A folder in the layout of Market-1501, whose file names begin with the pid: (3, H, W) float32 and label."""

    def __init__(self, folder: Path, height: int, width: int) -> None:
        self.paths = sorted(folder.glob("*.jpg"))
        pids = [int(path.name.partition("_")[0]) for path in self.paths]
        label_of = {pid: label for label, pid in enumerate(sorted(set(pids)))}
        self.labels = [label_of[pid] for pid in pids]
        self.num_classes = len(label_of)
        self.transform = transforms.Compose(
            [
                transforms.Resize((height, width)),
                transforms.RandomHorizontalFlip(),
                transforms.Pad(10),
                transforms.RandomCrop((height, width)),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
                transforms.RandomErasing(p=0.5, scale=(0.02, 0.4)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.open(self.paths[index]).convert("RGB")
        return cast(Tensor, self.transform(image)), self.labels[index]


class PartNet(nn.Module):
    """ResNet and P heads, each on its stripe: (B, 3, H, W) -> list of P logits (B, N); P = 1: the whole map.

    Source: Sun et al. 2018, arXiv 1711.09349.
    """

    def __init__(self, name: str, last_stride: int, num_parts: int, dim: int, num_classes: int) -> None:
        super().__init__()
        whole = cast(models.ResNet, models.get_model(name, weights=None))
        if last_stride == 1:
            for module in whole.layer4.modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)
        self.backbone = nn.Sequential(*list(whole.children())[:-2])
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(whole.fc.in_features, dim, bias=False),
                nn.BatchNorm1d(dim),
                nn.Linear(dim, num_classes, bias=False),
            )
            for _ in range(num_parts)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits of each part."""
        stripes = self.backbone(images).chunk(len(self.heads), dim=2)
        return [head(stripe.mean(dim=(2, 3))) for head, stripe in zip(self.heads, stripes, strict=True)]


def network_of(params: dict, num_classes: int) -> PartNet:
    """The network that params.json of `speed.py` describes."""
    model = params["model_params"]
    parts = max(1, model["pcb_n_parts"])
    name = model["model"].replace("_", "")
    return PartNet(name, model["last_conv_stride"], parts, model["feature_dim"] // parts, num_classes)


def train(params: dict, folder: Path, epochs: int, device: torch.device) -> list[float]:
    """Images per second of each epoch."""
    torch.backends.cudnn.benchmark = True
    images = ImageFolder(folder, params["img_h"], params["img_w"])
    loader = DataLoader(
        images, params["batch_size"], shuffle=True, num_workers=num_cpus(), pin_memory=device.type == "cuda"
    )
    network = network_of(params, images.num_classes).to(device).train()
    criterion = nn.CrossEntropyLoss()
    groups = [{"params": network.backbone.parameters(), "lr": 0.01}, {"params": network.heads.parameters(), "lr": 0.1}]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)
    rates = []
    for _ in range(epochs):
        start = time.perf_counter()
        for pixels, labels in loader:
            pixels, labels = pixels.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = torch.stack([criterion(logits, labels) for logits in network(pixels)]).sum()
            loss.backward()
            optimizer.step()
            loss.item()
        rates.append(len(images) / (time.perf_counter() - start))
    return rates


def main(argv: Sequence[str]) -> None:
    """Train and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("epochs", type=int)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args(argv)
    print(json.dumps(train(json.loads(args.params.read_text()), args.images, args.epochs, torch.device(args.device))))


if __name__ == "__main__":
    main(sys.argv[1:])
