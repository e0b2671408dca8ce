"""Pictures of a generator: the same ones each time, however many are made at once."""

from pathlib import Path

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
from tests.gan.conftest import CPU, PIDS, Bench, generator_file, make_colourful
from utils.errors import DataError


@pytest.fixture
def run(bench: Bench) -> Path:
    return trained(bench)


def trained(bench: Bench, condition: str = "") -> Path:
    """The folder of a finished run."""
    trainer = bench.generator(gan={"epoch": 1, "condition": condition})
    trainer.fit()
    make_colourful(trainer.folder.path)
    return trainer.folder.path


def params_of(run: Path) -> Params:
    params, _ = params_from_dict(generator_file(run)["params"], "generator.pth", plugin_options)
    return params


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
    noise, whom = draw_inputs(50, 5, conditions, 3, CPU)
    assert whom is not None
    assert (noise.shape, whom.shape) == ((50, 5), (50, 3))
    assert len(set(whom[:, 0].tolist())) > 10
    again = draw_inputs(50, 5, conditions, 3, CPU)
    assert again[1] is not None
    assert torch.equal(again[0], noise)
    assert torch.equal(again[1], whom)
    assert not torch.equal(draw_inputs(50, 5, conditions, 4, CPU)[0], noise)
    assert draw_inputs(50, 5, None, 3, CPU)[1] is None


@pytest.mark.parametrize("condition_dim", [0, 3])
def test_pictures_are_made_in_parts_and_in_order(monkeypatch: pytest.MonkeyPatch, condition_dim: int) -> None:
    generator, noise = make_generator(condition_dim), torch.randn(7, 5)
    whom = torch.randn(7, condition_dim) if condition_dim else None
    with torch.no_grad():
        expected = pictures_as_bytes(generator(noise, whom)).int()
    monkeypatch.setattr(sampling, "BATCH_SIZE", 3)
    found = generate(generator, noise, whom)
    assert (found.dtype, found.shape) == (torch.uint8, (7, 3, 64, 32))
    assert (found.int() - expected).abs().max() <= 1
    assert len({picture.numpy().tobytes() for picture in found}) == 7


def test_a_grid_is_of_64_pictures_that_follow_from_the_seed() -> None:
    generator = make_generator(3)
    conditions = torch.randn(20, 3)
    first, second, other = (sample_grid(generator, conditions, seed) for seed in (3, 3, 4))
    assert first.shape == (64, 3, 64, 32)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_folder_of_pictures_is_written(run: Path, tmp_path: Path) -> None:
    write_samples(run, params_of(run), tmp_path / "deep" / "out", 18, CPU)
    out = tmp_path / "deep" / "out"
    names = [f"{number:06d}.png" for number in range(1, 19)]
    assert sorted(path.name for path in out.iterdir()) == [*names, "grid.png"]
    grid = pixels(out / "grid.png")
    assert grid.shape == (2 * 64, 16 * 32, 3)
    for number, name in enumerate(names):
        top, left = 64 * (number // 16), 32 * (number % 16)
        assert (grid[top : top + 64, left : left + 32] == pixels(out / name)).all()
    assert not grid[64:, 2 * 32 :].any()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    (tmp_path / "empty").mkdir()
    write_samples(run, params_of(run), tmp_path / "empty", 18, CPU)
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "empty" / path.name).read_bytes()


def test_the_first_pictures_are_the_same_whatever_their_number(run: Path, tmp_path: Path) -> None:
    """The noise of a picture has 6 numbers, and torch draws 16 at a time."""
    write_samples(run, params_of(run), tmp_path / "18", 18, CPU)
    assert len({path.read_bytes() for path in (tmp_path / "18").glob("0*.png")}) == 18
    for count in (1, 2, 3, 7):
        write_samples(run, params_of(run), tmp_path / str(count), count, CPU)
        paths = list((tmp_path / str(count)).glob("0*.png"))
        assert len(paths) == count
        for path in paths:
            # Convolutions of batches of another size may round otherwise.
            difference = pixels(path).astype(int) - pixels(tmp_path / "18" / path.name)
            assert np.abs(difference).max() <= 1, (count, path.name)


def test_a_grid_holds_no_more_than_the_first_pictures(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MAX_IN_GRID", 16)
    write_samples(run, params_of(run), tmp_path / "out", 20, CPU)
    assert pixels(tmp_path / "out" / "grid.png").shape == (64, 16 * 32, 3)
    assert len(list((tmp_path / "out").iterdir())) == 21


def test_a_conditioned_generator_shows_one_person_after_another(
    bench: Bench, reid_checkpoint: Path, tmp_path: Path
) -> None:
    run = trained(bench, str(reid_checkpoint))
    write_samples(run, params_of(run), tmp_path / "out", 45, CPU)
    names = sorted(path.name for path in (tmp_path / "out").glob("*_*.png"))
    shown = [int(name[:4]) for name in sorted(names, key=lambda name: name[5:])]
    # Each person once, then the second image of each that has one, and so on; in the end all over again.
    expected = [*PIDS, *PIDS[:-1], *PIDS[:-1], *PIDS[:-1]]
    assert shown[:31] == expected[:31]
    assert shown[31:] == [*PIDS, *PIDS[:3]]
    assert [name[5:] for name in sorted(names, key=lambda name: name[5:])] == [
        f"{number:06d}.png" for number in range(1, 46)
    ]
    files = [pixels(tmp_path / "out" / name) for name in names]
    assert len({picture.tobytes() for picture in files}) == 45


def test_a_folder_that_holds_something_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    for out in (tmp_path / "out", tmp_path / "out" / "mine"):
        with pytest.raises(DataError, match=f"{out}: already exists"):
            write_samples(run, params_of(run), out, 3, CPU)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    written: list[Path] = []
    save = Image.Image.save

    def full(image: Image.Image, path: Path) -> None:
        if written:
            raise error
        written.append(path)
        save(image, path)

    monkeypatch.setattr(Image.Image, "save", full)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(DataError if isinstance(error, OSError) else KeyboardInterrupt, match=r"cannot be written|^$"):
        write_samples(run, params_of(run), tmp_path / "out", 3, CPU)
    assert written
    assert {path.name for path in tmp_path.iterdir()} == before


def test_the_network_that_conditions_may_have_moved_but_not_changed(
    bench: Bench, reid_checkpoint: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.pth"
    moved.write_bytes(reid_checkpoint.read_bytes())
    run = trained(bench, str(moved))
    params = params_of(run)
    moved.rename(tmp_path / "elsewhere.pth")
    with pytest.raises(DataError, match=r"gan_params\.condition: .*moved\.pth: no such file; .* say where it lies now"):
        write_samples(run, params, tmp_path / "out", 3, CPU)
    gan = params.gan_params.model_copy(update={"condition": str(tmp_path / "elsewhere.pth")})
    write_samples(run, params.model_copy(update={"gan_params": gan}), tmp_path / "out", 3, CPU)
    assert len(list((tmp_path / "out").iterdir())) == 4
    checkpoint = torch.load(tmp_path / "elsewhere.pth", weights_only=True)
    checkpoint["model"]["backbone.conv1.weight"][0, 0, 0, 0] += 1e-3
    torch.save(checkpoint, tmp_path / "elsewhere.pth")
    with pytest.raises(DataError, match="not the network that the generator was trained with"):
        write_samples(run, params.model_copy(update={"gan_params": gan}), tmp_path / "again", 3, CPU)
