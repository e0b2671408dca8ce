"""The textbook's side of the speed benchmark."""

import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import default_collate

from benchmarks.cost import measured, memory_in_use
from benchmarks.speed_ceiling import median_seconds, seconds_each, wait_for
from benchmarks.speed_settings import ERASING, PAD, Setting
from benchmarks.textbook_training import (
    ImageFolder,
    Loop,
    PartNet,
    eval_loader,
    eval_transforms,
    train_loader,
    train_transforms,
)
from data.synthetic.plan import TRAIN

STAGE_IMAGES = 64
"""Images that the stages of the pipeline are timed with."""
BATCHES_AHEAD = 2
"""Batches that each worker of a DataLoader prepares in advance."""
ROUND_OF_WORKERS = 8
"""Batches of a round for each worker: so many that it hardly matters how far each is when the clock starts."""


class TextbookTraining:
    """A training that takes steps when told; as `OurTraining`, without a framework."""

    def __init__(self, setting: Setting, images: Path, device_name: str, workers: int) -> None:
        self.device = torch.device(device_name)
        transform = train_transforms(setting.height, setting.width, PAD, ERASING)
        self.images = ImageFolder(images / TRAIN, transform)
        self.loader = train_loader(self.images, setting.batch, workers, self.device)
        self.before = memory_in_use(self.device)
        self.loop = Loop(textbook_network(setting, self.images.num_classes), self.device)
        batch = default_collate([self.images[index] for index in range(setting.batch)])
        self.resident_batch = tuple(tensor.to(self.device) for tensor in batch)

    def warm_up(self) -> dict[str, float]:
        """The first steps: as `OurTraining.warm_up`."""
        _, cost = measured(self._step_resident, self.device)
        self._step_resident()
        wait_for(self.device)
        peak = cost.peak_bytes
        if self.device.type == "cuda":
            # The second step's optimizer has its momentum. Contestants that wait for their turn take no room.
            peak = torch.cuda.max_memory_allocated()
            torch.cuda.empty_cache()
        return {"first_step_seconds": cost.seconds, "peak_bytes": peak - self.before}

    def resident(self, steps: int) -> float:
        """Seconds per step on one batch that lies on the device."""
        return seconds_each(self._step_resident, steps, self.device)

    def loaded(self, steps: int) -> float:
        """Seconds per step on batches as the loader gives them, after a first that does not count."""
        batches = iter(self.loader)
        self.loop.step(*next(batches))
        wait_for(self.device)
        start = time.perf_counter()
        for images, labels in islice(batches, steps):
            self.loop.step(images, labels)
        wait_for(self.device)
        return (time.perf_counter() - start) / steps

    def _step_resident(self) -> None:
        self.loop.step(*self.resident_batch)


class TextbookPipeline:
    """What stands before the network: transforms, image by image, in the workers of a loader."""

    def __init__(self, setting: Setting, images: Path, device_name: str, workers: int) -> None:
        self.images = ImageFolder(images / TRAIN, train_transforms(setting.height, setting.width, PAD, ERASING))
        self.device = torch.device(device_name)
        self.loader = train_loader(self.images, setting.batch, workers, self.device)
        self.batch, self.workers = setting.batch, workers

    def stages(self) -> dict[str, float]:
        """Images per second of each stage by itself, in one process."""
        cpu = torch.device("cpu")
        torch.set_num_threads(1)  # as in a worker
        paths = self.images.paths[:STAGE_IMAGES]
        rates = {"open and decode": len(paths) / median_seconds(lambda: [_open(path) for path in paths], cpu)}
        items: list[Any] = [_open(path) for path in paths]
        for transform in self.images.transform.transforms:
            took = median_seconds(lambda items=items, transform=transform: [transform(item) for item in items], cpu)
            rates[type(transform).__name__] = len(paths) / took
            items = [transform(item) for item in items]
        rates["stack into a batch"] = len(paths) / median_seconds(lambda: torch.stack(items), cpu)
        return rates

    def deliver(self) -> float:
        """Seconds per image of a number of batches, after the first ones, which all workers begin at once."""
        batches = iter(self.loader)
        for _ in islice(batches, BATCHES_AHEAD * self.workers):
            pass
        number = ROUND_OF_WORKERS * self.workers
        start = time.perf_counter()
        for images, labels in islice(batches, number):
            images.to(self.device, non_blocking=True)
            labels.to(self.device, non_blocking=True)
        wait_for(self.device)
        return (time.perf_counter() - start) / (number * self.batch)


class TextbookExtraction:
    """Embeds images, a loader's batch at a time."""

    def __init__(self, setting: Setting, images: Path, number: int, device_name: str, workers: int) -> None:
        self.device = torch.device(device_name)
        self.images = ImageFolder(images / TRAIN, eval_transforms(setting.height, setting.width))
        self.loop = Loop(textbook_network(setting, self.images.num_classes), self.device)
        self.images.paths = list(islice(cycle(self.images.paths), number))
        self.images.labels = list(islice(cycle(self.images.labels), number))
        self.loader = eval_loader(self.images, setting.batch, workers, self.device)

    def embed(self) -> float:
        """Seconds per image of all images."""
        start = time.perf_counter()
        self.loop.embed(self.loader)
        return (time.perf_counter() - start) / len(self.images)


def textbook_network(setting: Setting, num_classes: int) -> PartNet:
    """The setting's network."""
    parts = max(1, setting.parts)
    return PartNet(setting.model.replace("_", ""), setting.stride, parts, setting.dim // parts, num_classes)


def _open(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")
