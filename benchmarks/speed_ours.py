"""The framework's side of the speed benchmark: the very objects that a run trains, loads and embeds with."""

import time
from collections.abc import Generator
from itertools import cycle, islice
from pathlib import Path

import torch

from benchmarks.cost import measured, memory_in_use
from benchmarks.speed_ceiling import Work, WorkCounter, median_seconds, seconds_each, wait_for
from benchmarks.speed_settings import Setting, Variant, params_of
from data.augmentation.apply import augment
from data.augmentation.params import AugmentParams, sample
from data.cache import DecodedImageCache, build_image_cache, build_store
from data.dataset import read_dataset
from data.images import decode
from data.loader import load_batches
from engine.batches import train_batches
from engine.train_batch import TrainBatch
from engine.training import build_training
from evaluate.core.context import EvalContext
from evaluate.core.extract import extract
from models.network import Embedder
from utils.device import make_ready
from utils.memory import keep_freed_memory

READ_AT_ONCE = 17
"""Batches under way at most, whatever the machine."""
STAGE_IMAGES = 256
"""Images that the stages of the pipeline are timed with."""


class OurTraining:
    """A training of a setting, which takes steps when told.

    Args:
        setting, variant: what is trained, and how.
        images: folder in the layout of Market-1501.
        device_name: "cpu" or "cuda:0".
        seed: of the run.
    """

    def __init__(self, setting: Setting, variant: Variant, images: Path, device_name: str, seed: int = 0) -> None:
        self.device = torch.device(device_name)
        make_ready(self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.setting, self.variant = setting, variant
        params = params_of(setting, variant, images, seed)
        dataset = read_dataset(params)
        self.paths = [sample.path for sample in dataset.train]
        # What is kept of the images counts neither as a step's memory nor as its time: it comes after the first steps.
        self.before = memory_in_use(self.device)
        self.training = build_training(params.model_copy(update={"data_cache": "none"}), dataset, self.device)
        if not variant.channels_last:
            self.training.network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        self.training.network.train()
        self.resident_batch = self._in_layout(
            next(train_batches(self.training, self.training.batches(self.training.epoch)))
        )

    def warm_up(self) -> dict[str, float]:
        """The first steps: seconds of the very first, and the bytes that it held beyond what was there before.

        On the CPU "before" is all the process held; on a GPU all that training takes is counted.
        """
        _, cost = measured(self._step_resident, self.device)
        self._step_resident()
        wait_for(self.device)
        peak = cost.peak_bytes
        if self.device.type == "cuda":
            # The second step's optimizer has its momentum. Contestants that wait for their turn take no room.
            peak = torch.cuda.max_memory_allocated()
            torch.cuda.empty_cache()
        return {"first_step_seconds": cost.seconds, "peak_bytes": peak - self.before}

    def keep_images(self) -> str:
        """Decode the images into whatever store "auto" chooses; its name."""
        params = self.training.params
        self.training.store = build_store(self.paths, *params.resize_to, "auto", self.device)
        return type(self.training.store).__name__

    def resident(self, steps: int) -> float:
        """Seconds per step on one batch that lies on the device."""
        return seconds_each(self._step_resident, steps, self.device)

    def loaded(self, steps: int) -> float:
        """Seconds per step on batches as they come from the store, augmented.

        What is read ahead before the clock starts, during a first step, is as much as is left over when it stops.
        """
        with_data = self.batches()
        self._step(next(with_data))
        wait_for(self.device)
        start = time.perf_counter()
        for batches in islice(with_data, steps):
            self._step(batches)
        wait_for(self.device)
        elapsed = time.perf_counter() - start
        with_data.close()
        return elapsed / steps

    def batches(self) -> Generator[list[TrainBatch]]:
        """What each step sees, one epoch after another."""
        while True:
            yield from train_batches(self.training, self.training.batches(self.training.epoch))
            self.training.epoch += 1

    def work(self) -> list[Work]:
        """Every operation of a step on the resident batch, which is not compiled."""
        with WorkCounter() as counter:
            self._step_resident()
        return counter.work

    def losses(self, steps: int) -> list[float]:
        """The loss of each of so many steps of training."""
        found = []
        for batches in islice(self.batches(), steps):
            (losses,) = self._step(batches)
            found.append(torch.stack(list(losses.losses.values())).sum())
        return torch.stack(found).tolist()

    def _step_resident(self) -> None:
        self._step(self.resident_batch)

    def _step(self, batches: list[TrainBatch]) -> list:
        training = self.training
        found = training.stepper.gradients(self._in_layout(batches), training.step, spectral=False)
        training.stepper.update(found.finite)
        training.step += 1
        return found.losses

    def _in_layout(self, batches: list[TrainBatch]) -> list[TrainBatch]:
        if self.variant.channels_last:
            return batches
        return [batch._replace(pixels=batch.pixels.contiguous()) for batch in batches]


class OurPipeline:
    """What stands before the network: files, store, augmentation."""

    def __init__(self, setting: Setting, images: Path, device_name: str) -> None:
        self.ours = OurTraining(setting, Variant(), images, device_name)
        self.training, self.device = self.ours.training, self.ours.device
        self.files = self.kept = self.training.store

    def stages(self) -> dict[str, float]:
        """Images per second of each stage by itself, one after another in one thread; the device's as it does them."""
        training, params = self.training, self.training.params
        paths = self.ours.paths[:STAGE_IMAGES]
        height, width = params.resize_to
        options = params.data_augmentation
        cpu = torch.device("cpu")
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        store = build_store(paths, height, width, "ram", cpu)
        batch = list(range(min(self.ours.setting.batch, len(paths))))
        loaded = next(load_batches(store, training.labels, [batch], self.device))
        generator = torch.Generator(self.device)

        def drawn() -> AugmentParams:
            return sample(options, len(batch), height, width, params.img_h, params.img_w, generator)

        draws = drawn()
        times = {
            "read a file": median_seconds(lambda: [path.read_bytes() for path in paths], cpu) / len(paths),
            "decode and resize": median_seconds(lambda: [decode(path, height, width) for path in paths], cpu)
            / len(paths),
            "copy out of memory": median_seconds(lambda: store.read(batch), cpu) / len(batch),
            "draw": median_seconds(drawn, self.device) / len(batch),
            "augment": median_seconds(
                lambda: augment(loaded.images, draws, options, params.img_h, params.img_w, generator), self.device
            )
            / len(batch),
        }
        torch.set_num_threads(num_threads)
        return {stage: 1 / seconds for stage, seconds in times.items()}

    def keep_images(self) -> dict[str, float | str]:
        """Decode all images into the store that "auto" chooses: which one, and images per second."""
        start = time.perf_counter()
        name = self.ours.keep_images()
        wait_for(self.device)
        self.kept = self.training.store
        return {"store": name, "images_per_second": len(self.ours.paths) / (time.perf_counter() - start)}

    def deliver(self, batches: int, kept: bool) -> float:
        """Seconds per image of so many batches, loaded and augmented, after the first ones, which are read at once."""
        self.training.store = self.kept if kept else self.files
        loaded = self.ours.batches()
        for _ in islice(loaded, READ_AT_ONCE):
            pass
        wait_for(self.device)
        start = time.perf_counter()
        for _ in islice(loaded, batches):
            pass
        wait_for(self.device)
        elapsed = time.perf_counter() - start
        loaded.close()
        return elapsed / (batches * self.ours.setting.batch)


class OurExtraction:
    """Embeds images as an evaluation does."""

    def __init__(self, setting: Setting, variant: Variant, images: Path, number: int, device_name: str) -> None:
        ours = OurTraining(setting, variant, images, device_name)
        self.params = ours.training.params
        self.embedder = Embedder(ours.training.network).eval()
        # As in a run: images stay decoded from one evaluation to the next.
        self.kept = build_image_cache("auto")
        self.samples = list(islice(cycle(read_dataset(self.params).train), number))

    def embed(self) -> float:
        """Seconds per image of all images, kept decoded from the first time on."""
        return self._embed(self.kept)

    def embed_anew(self) -> float:
        """Seconds per image of all images, decoded from their files."""
        return self._embed(None)

    def _embed(self, kept: DecodedImageCache | None) -> float:
        context = EvalContext(self.params, self.embedder, kept)
        start = time.perf_counter()
        extract(context, self.samples, "benchmark")
        return (time.perf_counter() - start) / len(self.samples)
