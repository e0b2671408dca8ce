"""Training and embedding as most tutorials write them: what the framework's speed is measured against.

One image at a time through Pillow and torchvision's transforms in the workers of a DataLoader; float32 in torch's
default layout; a Python list of part heads with a cross entropy each; SGD; the loss read at every step. Network, losses
and images are those of the framework: with its weights this network gives its logits.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import models, transforms

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """A folder in the layout of Market-1501, whose file names begin with the pid: (3, H, W) float32 and label."""

    def __init__(self, folder: Path, transform: transforms.Compose) -> None:
        self.paths = sorted(folder.glob("*.jpg"))
        pids = [int(path.name.partition("_")[0]) for path in self.paths]
        label_of = {pid: label for label, pid in enumerate(sorted(set(pids)))}
        self.labels = [label_of[pid] for pid in pids]
        self.num_classes = len(label_of)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.open(self.paths[index]).convert("RGB")
        return cast(Tensor, self.transform(image)), self.labels[index]


def train_transforms(height: int, width: int, pad: int, erasing: float) -> transforms.Compose:
    """Resize, mirror, pad and crop, normalise, erase with probability `erasing`."""
    return transforms.Compose(
        [
            transforms.Resize((height, width)),
            transforms.RandomHorizontalFlip(),
            transforms.Pad(pad),
            transforms.RandomCrop((height, width)),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, DEVIATION),
            transforms.RandomErasing(p=erasing, scale=(0.02, 0.4)),
        ]
    )


def eval_transforms(height: int, width: int) -> transforms.Compose:
    """Resize and normalise."""
    return transforms.Compose(
        [transforms.Resize((height, width)), transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
    )


class PartHead(nn.Module):
    """Pooled stripe (B, C) -> embedding (B, D), and the class scores of it."""

    def __init__(self, in_channels: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(in_channels, dim, bias=False)
        self.bn = nn.BatchNorm1d(dim)
        self.classifier = nn.Linear(dim, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C) -> (B, D) and (B, N)."""
        embedding = self.bn(self.reduction(pooled))
        return embedding, self.classifier(embedding)


class PartNet(nn.Module):
    """ResNet and a list of P heads, each on its stripe; P = 1: one feature of the whole map.

    Args:
        name: torchvision's name of the ResNet, such as "resnet50".
        last_stride: stride of the last stage, 1 or 2.
        num_parts: P.
        dim: size of each part's embedding.
        num_classes: N.

    Source: Sun et al. 2018, arXiv 1711.09349.
    """

    def __init__(self, name: str, last_stride: int, num_parts: int, dim: int, num_classes: int) -> None:
        super().__init__()
        whole = cast(models.ResNet, models.get_model(name, weights=None))
        in_channels = whole.fc.in_features
        if last_stride == 1:
            for module in whole.layer4.modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)
        self.backbone = nn.Sequential(*list(whole.children())[:-2])
        self.num_parts = num_parts
        self.heads = nn.ModuleList([PartHead(in_channels, dim, num_classes) for _ in range(num_parts)])

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        """(B, 3, H, W) -> list of P logits (B, N) in training, embeddings (B, P * D) in evaluation."""
        feature_map = self.backbone(images)
        rows = feature_map.shape[2] // self.num_parts
        embeddings, scores = [], []
        for part, head in enumerate(self.heads):
            stripe = feature_map[:, :, part * rows : (part + 1) * rows]
            embedding, logits = head(stripe.mean(dim=(2, 3)))
            embeddings.append(embedding)
            scores.append(logits)
        return scores if self.training else torch.cat(embeddings, dim=1)


class Loop:
    """The training loop's body, and that of embedding."""

    def __init__(self, model: PartNet, device: torch.device) -> None:
        torch.backends.cudnn.benchmark = True
        self.model = model.to(device).train()
        self.device = device
        self.criterion = nn.CrossEntropyLoss()
        groups = [{"params": model.backbone.parameters(), "lr": 0.01}, {"params": model.heads.parameters(), "lr": 0.1}]
        self.optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)

    def step(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """One update by a batch as the loader gives it; loss and accuracy."""
        images, labels = images.to(self.device), labels.to(self.device)
        self.optimizer.zero_grad()
        scores = cast(list[Tensor], self.model(images))
        loss = torch.stack([self.criterion(logits, labels) for logits in scores]).sum()
        loss.backward()
        self.optimizer.step()
        correct = sum((logits.argmax(1) == labels).float().mean() for logits in scores) / len(scores)
        return loss.item(), float(correct)

    def embed(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Embeddings of all images (N, D), on the CPU."""
        self.model.eval()
        features = []
        with torch.no_grad():
            for images, _ in batches:
                features.append(self.model(images.to(self.device)).cpu())
        self.model.train()
        return torch.cat(features)


def train_loader(
    images: ImageFolder, batch_size: int, workers: int, device: torch.device
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches (B, 3, H, W) float32 and labels (B,), in random order, one epoch after another without a break."""
    sampler = RandomSampler(images, num_samples=len(images) * 1000)
    pinned = device.type == "cuda"
    return DataLoader(images, batch_size, sampler=sampler, num_workers=workers, pin_memory=pinned)  # pyright: ignore[reportReturnType]


def eval_loader(
    images: ImageFolder, batch_size: int, workers: int, device: torch.device
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches in the order of the folder."""
    pinned = device.type == "cuda"
    return DataLoader(images, batch_size, num_workers=workers, pin_memory=pinned)  # pyright: ignore[reportReturnType]
