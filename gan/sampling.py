"""What a generator makes: pictures, a grid of them while it learns, and a folder of them when it is done."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from config.params import Params
from data.dataset import read_dataset
from data.samples import Sample
from engine.recorder import grid
from gan.checkpoint import load_generator
from gan.conditions import ConditionNetwork
from models.generator import Generator, pictures_as_bytes
from utils.errors import DataError, with_advice
from utils.files import temporary_path
from utils.randomness import SAMPLES, seed_for

logger = logging.getLogger(__name__)

GRID = "grid.png"
MOST_IN_GRID = 256
COLUMNS = 16
SHOWN = 64
"""Pictures shown while a generator learns."""
AT_ONCE = 128
"""Pictures made at once."""


def write_samples(run: Path, params: Params, out: Path, count: int, device: torch.device) -> None:
    """Write `count` pictures of the generator in a run's folder, and a grid of the first of them.

    A conditioned generator shows persons of its training set, one after another; the name of a picture begins with
    the pid of the person it was made from.

    Args:
        run: the run's folder.
        params: of the run, with what has been moved where it lies now.
        out: folder to make; it appears when it is complete.
        count: how many; the first are the same whatever the number.
        device: where the generator computes.

    Raises:
        DataError: there is no generator, `out` is there already, or it cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is there already and not empty; name another folder")
    generator = load_generator(run, "--sub_working_dir").generator
    inputs = _Inputs(params, generator, count, device)
    generator.to(device)
    random = torch.Generator().manual_seed(seed_for(SAMPLES, params.seed, 1))
    try:
        with _folder(out) as folder:
            shown: list[np.ndarray] = []
            # Part by part: a million pictures need not lie in memory.
            for start in range(0, count, AT_ONCE):
                numbers = range(start, min(start + AT_ONCE, count))
                # Always as many numbers, as how torch draws them depends on how many are asked for.
                noise = torch.randn(AT_ONCE, generator.input_dim, generator=random)[: len(numbers)].to(device)
                for number, picture in zip(
                    numbers, generate(generator, noise, inputs.conditions(numbers)).numpy(), strict=True
                ):
                    Image.fromarray(picture.transpose(1, 2, 0)).save(folder / inputs.name(number))
                    shown += [picture] if number < MOST_IN_GRID else []
            Image.fromarray(grid(np.stack(shown), COLUMNS)).save(folder / GRID)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {with_advice(error)}") from error
    logger.info("written: %s: %d pictures of %dx%d and %s", out, count, generator.height, generator.height // 2, GRID)


class _Inputs:
    """Whom each picture is to show.

    Training images are taken in turn, one of each person before the second of any.

    Args:
        params: say where the training images and the network lie.
        generator: unless it is conditioned, it shows nobody.
        count: of pictures.
        device: where the embeddings are wanted.
    """

    def __init__(self, params: Params, generator: Generator, count: int, device: torch.device) -> None:
        self._sources: list[Sample] = []
        self._embeddings: Tensor | None = None
        if generator.condition_dim:
            network = ConditionNetwork(params.gan_params.condition)
            network.check_signed(generator, "the generator")
            self._sources = _in_turn(read_dataset(params).train)[:count]
            if not self._sources:
                raise DataError(f"{params.batches_dir}: no training images, whose embeddings the generator needs")
            self._embeddings = network.embed(self._sources, device)

    def conditions(self, numbers: Sequence[int]) -> Tensor | None:
        """Embeddings for pictures by their numbers, counted from 0."""
        if self._embeddings is None:
            return None
        return self._embeddings[[number % len(self._sources) for number in numbers]]

    def name(self, number: int) -> str:
        """A picture's file."""
        name = f"{number + 1:06d}.png"
        return f"{self._sources[number % len(self._sources)].pid:04d}_{name}" if self._sources else name


def draw_inputs(
    count: int, input_dim: int, conditions: Tensor | None, seed: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Noise (count, input_dim), and embeddings (count, D) drawn from all there are; the same for the same seed."""
    random = torch.Generator(device).manual_seed(seed_for(SAMPLES, seed))
    noise = torch.randn(count, input_dim, generator=random, device=device)
    if conditions is None:
        return noise, None
    return noise, conditions[torch.randint(len(conditions), (count,), generator=random, device=device)]


@torch.no_grad()
def generate(generator: Generator, noise: Tensor, conditions: Tensor | None) -> Tensor:
    """Noise (M, input_dim) and embeddings (M, D) -> pictures (M, 3, H, W) uint8 on the CPU."""
    parts = noise.split(AT_ONCE)
    of_parts = [None] * len(parts) if conditions is None else conditions.split(AT_ONCE)
    pictures = [pictures_as_bytes(generator(*inputs)).cpu() for inputs in zip(parts, of_parts, strict=True)]
    return torch.cat(pictures)


def sample_grid(generator: Generator, conditions: Tensor | None, seed: int) -> Tensor:
    """Pictures to be looked at while a generator learns, each time from the same noise: (64, 3, H, W) uint8.

    Args:
        generator: in evaluation mode.
        conditions: (N, D) embeddings to draw from, where it is conditioned.
        seed: of the run.
    """
    device = next(generator.parameters()).device
    return generate(generator, *draw_inputs(SHOWN, generator.input_dim, conditions, seed, device))


def _in_turn(samples: Sequence[Sample]) -> list[Sample]:
    """One image of each person before the second of any."""
    of_person: dict[int, list[Sample]] = {}
    for sample in samples:
        of_person.setdefault(sample.pid, []).append(sample)
    longest = max(map(len, of_person.values()), default=0)
    return [images[turn] for turn in range(longest) for images in of_person.values() if turn < len(images)]


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A folder to write to, which takes the name `out` when it is complete, and otherwise goes."""
    temporary = temporary_path(out.absolute())
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(out)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
