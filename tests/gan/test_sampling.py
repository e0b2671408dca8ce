"""Pictures of a generator: the same ones each time, however many are made at once."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from config.load import params_from_dict
from config.params import Params
from evaluate.core.plugins import plugin_options
from gan import sampling
from gan.sampling import draw_inputs, generate, sample_grid, write_samples
from models.generator import Generator, pictures_as_bytes
from tests.gan.conftest import CPU, PIDS, generator_file
from utils.errors import DataError


@pytest.fixture
def run(generators: dict[str, str]) -> Path:
    """The folder of an unconditional generator."""
    return Path(generators["anybody"])


def params_of(run: Path, **gan: Any) -> Params:
    params, _ = params_from_dict(generator_file(run)["params"], "generator.pth", plugin_options)
    return params.model_copy(update={"gan_params": params.gan_params.model_copy(update=gan)})


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def make_generator(condition_dim: int = 0) -> Generator:
    torch.manual_seed(0)
    generator = Generator(64, 5, 4, condition_dim)
    with torch.no_grad():
        for parameter in generator.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return generator.eval()


def test_inputs_follow_from_the_seed() -> None:
    conditions = torch.arange(20.0)[:, None].expand(20, 3)
    (noise, drawn), again, other = (draw_inputs(50, 5, conditions, seed, CPU) for seed in (3, 3, 4))
    assert drawn is not None
    assert again[1] is not None
    assert (noise.shape, drawn.shape) == ((50, 5), (50, 3))
    assert len(set(drawn[:, 0].tolist())) > 10
    assert torch.equal(again[0], noise)
    assert torch.equal(again[1], drawn)
    assert not torch.equal(other[0], noise)
    assert draw_inputs(50, 5, None, 3, CPU)[1] is None
    generator = make_generator(3)
    first, second, other = (sample_grid(generator, conditions, seed) for seed in (3, 3, 4))
    assert first.shape == (64, 3, 64, 32)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("condition_dim", [0, 3])
def test_pictures_are_made_in_batches_and_in_order(monkeypatch: pytest.MonkeyPatch, condition_dim: int) -> None:
    generator, noise = make_generator(condition_dim), torch.randn(7, 5)
    conditions = torch.randn(7, condition_dim) if condition_dim else None
    with torch.no_grad():
        expected = pictures_as_bytes(generator(noise, conditions)).int()
    monkeypatch.setattr(sampling, "BATCH_SIZE", 3)
    found = generate(generator, noise, conditions)
    assert (found.dtype, found.shape) == (torch.uint8, (7, 3, 64, 32))
    assert (found.int() - expected).abs().max() <= 1
    assert len({picture.numpy().tobytes() for picture in found}) == 7


def test_a_folder_of_pictures_is_written(run: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "deep" / "out", tmp_path / "empty"
    write_samples(run, params_of(run), out, 18, CPU)
    names = [f"{number:06d}.png" for number in range(1, 19)]
    assert sorted(path.name for path in out.iterdir()) == [*names, "grid.png"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    grid = pixels(out / "grid.png")
    assert grid.shape == (2 * 64, 16 * 32, 3)
    for number, name in enumerate(names):
        top, left = 64 * (number // 16), 32 * (number % 16)
        assert (grid[top : top + 64, left : left + 32] == pixels(out / name)).all()
    assert not grid[64:, 2 * 32 :].any()
    again.mkdir()
    write_samples(run, params_of(run), again, 18, CPU)
    for path in out.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_the_first_pictures_are_the_same_whatever_their_number(run: Path, tmp_path: Path) -> None:
    """The noise of a picture has 6 numbers, and torch draws 16 at a time."""
    write_samples(run, params_of(run), tmp_path / "18", 18, CPU)
    assert len({path.read_bytes() for path in (tmp_path / "18").glob("0*.png")}) == 18
    for count in (1, 2, 3, 7):
        write_samples(run, params_of(run), tmp_path / str(count), count, CPU)
        paths = list((tmp_path / str(count)).glob("0*.png"))
        assert len(paths) == count
        for path in paths:
            # Convolutions may round differently in batches of another size.
            difference = pixels(path).astype(int) - pixels(tmp_path / "18" / path.name)
            assert np.abs(difference).max() <= 1, (count, path.name)


def test_a_grid_holds_the_first_pictures_only(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MAX_IN_GRID", 16)
    write_samples(run, params_of(run), tmp_path / "out", 20, CPU)
    assert pixels(tmp_path / "out" / "grid.png").shape == (64, 16 * 32, 3)
    assert len(list((tmp_path / "out").iterdir())) == 21


def test_a_conditioned_generator_shows_one_person_after_another(generators: dict[str, str], tmp_path: Path) -> None:
    run = Path(generators["somebody"])
    write_samples(run, params_of(run), tmp_path / "out", 45, CPU)
    paths = sorted((tmp_path / "out").glob("*_*.png"), key=lambda path: path.name[5:])
    # Each person once, then the second image of each that has one, and so on; in the end all over again.
    expected = [*PIDS, *PIDS[:-1], *PIDS[:-1]]
    assert [int(path.name[:4]) for path in paths] == [*expected, *PIDS, *PIDS[:3]]
    assert [path.name[5:] for path in paths] == [f"{number:06d}.png" for number in range(1, 46)]
    assert len({pixels(path).tobytes() for path in paths}) == 45


def test_the_network_of_the_condition_may_have_moved_but_not_changed(
    generators: dict[str, str], reid_checkpoint: Path, tmp_path: Path
) -> None:
    run, moved, out = Path(generators["somebody"]), tmp_path / "moved.pth", tmp_path / "out"
    with pytest.raises(DataError, match=r"gan_params\.condition: .*gone\.pth: no such file"):
        write_samples(run, params_of(run, condition=str(tmp_path / "gone.pth")), out, 3, CPU)
    shutil.copy(reid_checkpoint, moved)
    write_samples(run, params_of(run, condition=str(moved)), out, 3, CPU)
    assert len(list(out.iterdir())) == 4
    checkpoint = torch.load(moved, weights_only=True)
    checkpoint["model"]["backbone.conv1.weight"][0, 0, 0, 0] += 1e-3
    torch.save(checkpoint, moved)
    with pytest.raises(DataError, match="not the network that the generator was trained with"):
        write_samples(run, params_of(run, condition=str(moved)), tmp_path / "again", 3, CPU)


def test_a_folder_that_holds_something_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match=f"{out}: already exists"):
            write_samples(run, params_of(run), out, 3, CPU)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    save, written = Image.Image.save, list[Path]()

    def fail_second(image: Image.Image, path: Path) -> None:
        if written:
            raise error
        written.append(path)
        save(image, path)

    monkeypatch.setattr(Image.Image, "save", fail_second)
    with pytest.raises(DataError if isinstance(error, OSError) else KeyboardInterrupt, match=r"cannot be written|^$"):
        write_samples(run, params_of(run), tmp_path / "out", 3, CPU)
    assert written
    assert list(tmp_path.iterdir()) == []
