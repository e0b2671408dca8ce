"""Pictures of a generator: a grid of them while it is trained, a folder of them afterwards."""

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
from engine.commands import load_run_with_changes
from engine.recorder import grid
from gan.checkpoint import load_generator
from gan.conditions import ConditionNetwork
from models.generator import Generator, pictures_as_bytes
from utils.device import choose_device
from utils.errors import DataError, with_advice
from utils.files import temporary_path
from utils.randomness import SAMPLES, seed_for

logger = logging.getLogger(__name__)

GRID = "grid.png"
MAX_IN_GRID, GRID_COLUMNS = 256, 16
NUM_SHOWN = 64
"""Pictures shown while a generator is trained."""
BATCH_SIZE = 128
CHANGEABLE = ("batches_dir", "test_dirs", "gan_params.condition")
"""Settings of a run that sample_gan may change: paths that a conditioned generator needs."""


def sample_gan(name: str, overrides: Sequence[str], out: Path, count: int) -> None:
    """Write pictures of the generator of the run `working_dir/name`.

    Raises:
        ParamsError: an override of a setting other than working_dir and those `CHANGEABLE`.
        DataError: there is no such run, or as `write_samples`.
    """
    folder, params = load_run_with_changes(name, overrides, CHANGEABLE)
    write_samples(folder.path, params, out, count, choose_device(params.parallels))


def write_samples(run: Path, params: Params, out: Path, count: int, device: torch.device) -> None:
    """Write `count` pictures of the generator in a run's folder, and a grid of the first of them.

    A conditioned generator shows the persons of its training set in turn; the name of a picture begins with the pid.

    Args:
        run: the run's folder.
        params: of the run, with the current paths.
        out: folder to make; it appears when it is complete.
        count: of pictures; the first ones do not depend on it.
        device: where the generator computes.

    Raises:
        DataError: there is no generator, `out` already exists, or it cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: already exists and is not empty; name another folder")
    generator = load_generator(run, "--sub_working_dir").generator
    persons, embeddings = _persons(params, generator, count, device) if generator.condition_dim else ([], None)
    generator.to(device)
    random = torch.Generator().manual_seed(seed_for(SAMPLES, params.seed, 1))
    try:
        with _folder(out) as folder:
            first: list[np.ndarray] = []
            for start in range(0, count, BATCH_SIZE):
                numbers = range(start, min(start + BATCH_SIZE, count))
                # Always a whole batch: the numbers that torch draws depend on how many are asked for.
                noise = torch.randn(BATCH_SIZE, generator.input_dim, generator=random)[: len(numbers)].to(device)
                conditions = None if embeddings is None else embeddings[[number % len(persons) for number in numbers]]
                for number, picture in zip(numbers, generate(generator, noise, conditions).numpy(), strict=True):
                    pid = f"{persons[number % len(persons)].pid:04d}_" if persons else ""
                    Image.fromarray(picture.transpose(1, 2, 0)).save(folder / f"{pid}{number + 1:06d}.png")
                    first += [picture] if number < MAX_IN_GRID else []
            Image.fromarray(grid(np.stack(first), GRID_COLUMNS)).save(folder / GRID)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {with_advice(error)}") from error
    logger.info("written: %s: %d pictures of %dx%d and %s", out, count, generator.height, generator.height // 2, GRID)


def _persons(params: Params, generator: Generator, count: int, device: torch.device) -> tuple[list[Sample], Tensor]:
    """Training images whose persons a conditioned generator shows in turn, at most `count`, and their embeddings."""
    network = ConditionNetwork(params.gan_params.condition)
    network.check_digest(generator, "the generator")
    samples = _in_turn(read_dataset(params).train)[:count]
    if not samples:
        raise DataError(f"{params.data_name}: no training images, whose embeddings the generator needs")
    return samples, network.embed(samples, device)


def draw_inputs(
    count: int, input_dim: int, conditions: Tensor | None, seed: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Noise (count, input_dim), and embeddings (count, D) drawn from `conditions`; they follow from the seed."""
    random = torch.Generator(device).manual_seed(seed_for(SAMPLES, seed))
    noise = torch.randn(count, input_dim, generator=random, device=device)
    if conditions is None:
        return noise, None
    return noise, conditions[torch.randint(len(conditions), (count,), generator=random, device=device)]


@torch.no_grad()
def generate(generator: Generator, noise: Tensor, conditions: Tensor | None) -> Tensor:
    """Noise (M, input_dim) and embeddings (M, D) -> pictures (M, 3, H, W) uint8 on the CPU."""
    noises = noise.split(BATCH_SIZE)
    embeddings = [None] * len(noises) if conditions is None else conditions.split(BATCH_SIZE)
    return torch.cat([pictures_as_bytes(generator(*batch)).cpu() for batch in zip(noises, embeddings, strict=True)])


def sample_grid(generator: Generator, conditions: Tensor | None, seed: int) -> Tensor:
    """Pictures to look at while a generator is trained, always from the same noise: (64, 3, H, W) uint8.

    Args:
        generator: in evaluation mode.
        conditions: (N, D) embeddings to draw from; None for an unconditional generator.
        seed: of the run.
    """
    device = next(generator.parameters()).device
    return generate(generator, *draw_inputs(NUM_SHOWN, generator.input_dim, conditions, seed, device))


def _in_turn(samples: Sequence[Sample]) -> list[Sample]:
    """One image of each person before the second of any."""
    of_person: dict[int, list[Sample]] = {}
    for sample in samples:
        of_person.setdefault(sample.pid, []).append(sample)
    longest = max(map(len, of_person.values()), default=0)
    return [images[turn] for turn in range(longest) for images in of_person.values() if turn < len(images)]


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A temporary folder to write to; on success it is renamed to `out`, otherwise it is removed."""
    temporary = temporary_path(out.absolute())
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(out)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
