"""Lists of pairs in LFW's format, and distances of pairs."""

import math
from pathlib import Path
from typing import get_args

import pytest
import torch

from data.samples import Sample
from evaluate.core.retrieval.distances import Metric
from evaluate.core.verification.pairs import PAIRS_AT_ONCE, Pairs, pair_distances, read_pairs, without_images
from utils.errors import DataError

TWO_FOLDS = """2 1
Ann 1 2
Ann\t1\tBob\t3
Cy 1 4
Cy 4 Dee 1
"""


@pytest.fixture
def read(tmp_path):
    """Reads a list of pairs; of the images it names those given as absent are not there."""

    def read(text: str, absent: tuple[str, ...] = (), suffix: str = ".jpg") -> Pairs:
        for name in ("Ann", "Bob", "Cy", "Dee", "Eve Mae"):
            (tmp_path / name).mkdir()
            for number in range(1, 13):
                image = tmp_path / name / f"{name}_{number:04d}{suffix}"
                if image.name not in absent:
                    image.touch()
        (tmp_path / "pairs.txt").write_text(text, encoding="utf-8")
        return read_pairs(tmp_path / "pairs.txt", tmp_path, suffix)

    return read


def named(pairs: Pairs) -> list[tuple[str, str, bool, int]]:
    """File names, kind and fold of each pair."""
    names = [sample.path.name for sample in pairs.samples]
    columns = (pairs.first.tolist(), pairs.second.tolist(), pairs.is_genuine.tolist(), pairs.folds.tolist())
    return [(names[first], names[second], kind, fold) for first, second, kind, fold in zip(*columns, strict=True)]


def test_reads_folds_of_pairs(read, tmp_path):
    pairs = read(TWO_FOLDS)
    assert named(pairs) == [
        ("Ann_0001.jpg", "Ann_0002.jpg", True, 0),
        ("Ann_0001.jpg", "Bob_0003.jpg", False, 0),
        ("Cy_0001.jpg", "Cy_0004.jpg", True, 1),
        ("Cy_0004.jpg", "Dee_0001.jpg", False, 1),
    ]
    assert pairs.num_folds == 2
    assert len(pairs.samples) == 6  # each image once
    assert pairs.samples[0] == Sample(tmp_path / "Ann" / "Ann_0001.jpg", 1, 0)
    assert [sample.pid for sample in pairs.samples] == [1, 1, 2, 3, 3, 4]


def test_a_list_may_be_one_fold_and_hold_blank_lines(read):
    pairs = read("\n2\nAnn 1 2\n\nBob 1 12\nAnn 1 Bob 1\nBob 2 Ann 1\n\n", suffix=".png")
    assert pairs.num_folds == 1
    assert named(pairs)[1] == ("Bob_0001.png", "Bob_0012.png", True, 0)
    assert pairs.is_genuine.tolist() == [True, True, False, False]


def test_names_may_hold_spaces_where_tabs_part_the_fields(read):
    pairs = read("1\nEve Mae\t1\t2\nAnn\t1\tEve Mae\t2\n")
    assert named(pairs)[1][:2] == ("Ann_0001.jpg", "Eve Mae_0002.jpg")


def test_a_byte_order_mark_is_no_part_of_the_first_line(read):
    assert named(read("\ufeff" + TWO_FOLDS))[0] == ("Ann_0001.jpg", "Ann_0002.jpg", True, 0)


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        ("Ann 1 2", "Ann 1", "line 2: expected a genuine pair, NAME 1 2, got Ann 1$"),
        ("Ann 1 2", "Ann 1 two", "line 2: .* got Ann 1 two"),
        ("Ann 1 2", "Ann 2 2", "line 2: expected a genuine pair"),
        ("Ann 1 2", "Ann 1 Bob 2", "line 2: expected a genuine pair"),
        ("Cy 4 Dee 1", "Cy 4 1", "line 5: expected an impostor, NAME 1 OTHER_NAME 2"),
        ("Cy 4 Dee 1", "Cy 4 Cy 1", "line 5: expected an impostor"),
        ("Cy 4 Dee 1", "Cy -4 Dee 1", "line 5: expected an impostor"),
        ("Cy 4 Dee 1", "Cy 4 Dee 1234567890", "line 5: expected an impostor"),
        pytest.param("Ann 1 2", "Ann 1 " + 5000 * "2", r"line 2: .* got Ann 1 2{94}\.\.\.$", id="thousands of digits"),
        ("Cy 4 Dee 1\n", "", "expected 4 lines after the first, 2 x 1 genuine pairs and as many impostors, got 3$"),
        ("Cy 1 4", "Cy 1 99", r"no such image: .*Cy_0099\.jpg"),
    ],
)
def test_a_mistake_is_named(read, line, replacement, message):
    with pytest.raises(DataError, match=rf"(?m)pairs\.txt: 1 problem; .*\n  {message}"):
        read(TWO_FOLDS.replace(line, replacement))


@pytest.mark.parametrize(
    "first",
    [
        "",
        "10 300 5",
        "ten 300",
        "0 300",
        "Ann 1 2",
        "2 -1",
        "1.5",
        pytest.param("10 " + 5000 * "3", id="thousands of digits"),
    ],
)
def test_a_first_line_without_numbers_is_named(read, first):
    with pytest.raises(DataError, match=r"pairs\.txt: the first line should hold the number of folds"):
        read(f"{first}\n" + ("Ann 1 2\n" if first else ""))


def test_all_mistakes_are_told_at_once_ten_of_them_by_name(read):
    lines = [f"Ann {number} {number + 1}" for number in range(1, 13)] + ["Ann one Bob 1"] * 3 + ["Ann 1 Bob 1"] * 9
    absent = tuple(f"Ann_{number:04d}.jpg" for number in range(1, 14))
    with pytest.raises(DataError) as error:
        read("12\n" + "\n".join(lines), absent)
    message = str(error.value)
    assert "16 problems" in message
    assert "line 14: " in message
    assert message.count("\n  ") == 11
    assert message.count("no such image: ") == 7
    assert message.endswith("\n  and 6 more")


def test_a_missing_line_does_not_make_the_others_mistakes(read):
    with pytest.raises(DataError, match=r": 1 problem; .*\n  expected 4 lines"):
        read(TWO_FOLDS.replace("Ann 1 2\n", ""))


@pytest.mark.parametrize("content", [None, b"1\n\xff\xfe 1 2\n"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "pairs.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"pairs_file: {path}: (no such file|'utf-8' codec)"):
        read_pairs(path, tmp_path, ".jpg")


def test_pairs_of_images_that_are_gone_leave_with_them():
    samples = [Sample(Path(f"{name}.png"), 1, 0) for name in "abcd"]
    columns = ([0, 1, 2, 3], [1, 2, 3, 0], [True, False, True, False], [0, 0, 1, 1])
    left = without_images(Pairs(samples, *map(torch.tensor, columns)), [samples[3], samples[1], samples[2]])
    assert [sample.path.name for sample in left.samples] == ["d.png", "b.png", "c.png"]
    assert (left.first.tolist(), left.second.tolist()) == ([1, 2], [2, 0])
    assert (left.is_genuine.tolist(), left.folds.tolist()) == ([False, True], [0, 1])


@pytest.mark.parametrize("num_pairs", [0, 5, PAIRS_AT_ONCE + 1])
def test_distances_agree_with_the_definition(num_pairs):
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(9, 4, generator=rng)
    first, second = torch.randint(9, (2, num_pairs), generator=rng)
    rows = features.tolist()
    cosine, euclidean = [], []
    for one, other in zip(first.tolist(), second.tolist(), strict=True):
        product = math.fsum(x * y for x, y in zip(rows[one], rows[other], strict=True))
        cosine.append(1 - product / math.hypot(*rows[one]) / math.hypot(*rows[other]))
        euclidean.append(math.dist(rows[one], rows[other]))
    by_cosine, by_length = (pair_distances(features, first, second, metric) for metric in get_args(Metric))
    for found, expected in ((by_cosine, cosine), (by_length, euclidean)):
        assert found.dtype == torch.float32
        assert (found >= 0).all()
        assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_an_embedding_without_direction_has_no_cosine():
    features = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    rows = torch.tensor([0, 1]), torch.tensor([0, 0])
    with pytest.raises(DataError, match="1 of 2 pairs have an embedding of length zero"):
        pair_distances(features, *rows, "cosine")
    assert pair_distances(features, *rows, "euclidean").tolist() == [0.0, 1.0]
