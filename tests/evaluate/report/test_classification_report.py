"""The report of a classification: which confusions it names, which pictures it shows, what it says of each class."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from data.samples import Sample
from evaluate.core.classification.accuracy import Classified
from evaluate.core.report.blocks import ImageGroups, Report, Table
from evaluate.core.report.classification import Confusion, classification_report, confusions, surest_mistakes
from evaluate.core.report.page import write_report

NAMES = ["ant", "bee <b>", "cat", "dog"]
# Two ants taken for bees, the second more surely; one bee for a cat; the dog has no images.
TRUTH = [0, 0, 0, 1, 1, 2]
SCORES = [[0.0, 1, 0, 0], [0, 9, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]


@pytest.fixture
def found(tmp_path: Path) -> Classified:
    samples = [Sample(tmp_path / f"{row}.png", true + 1, 0) for row, true in enumerate(TRUTH)]
    for sample in samples[:-1]:
        Image.new("RGB", (8, 8), (sample.pid * 50, 0, 0)).save(sample.path)
    return Classified(samples, torch.tensor(TRUTH), torch.tensor(SCORES), NAMES)


def block(report: Report, section: str, kind: type) -> list:
    return [part for each in report.sections if each.title == section for part in each.blocks if isinstance(part, kind)]


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_confusions_come_by_frequency_and_their_images_by_confidence(found: Classified) -> None:
    assert confusions(found) == [Confusion(0, 1, 2), Confusion(1, 2, 1)]
    assert surest_mistakes(found, Confusion(0, 1, 2), count=5) == [1, 0]
    assert surest_mistakes(found, Confusion(0, 1, 2), count=1) == [1]


def test_headline_numbers(found: Classified) -> None:
    report = classification_report(found, [1, 2], "Trial", "folder")
    assert [(figure.name, figure.value) for figure in report.figures] == [
        ("Top-1", "50.00%"),
        ("Top-2", "83.33%"),  # of the bee that is taken for a cat, ant comes second and bee third
        ("Mean class accuracy", f"{(1 / 3 + 1 / 2 + 1) / 3:.2%}"),
        ("Worst class", "33.33%"),
    ]
    assert report.figures[-1].note == "ant"


def test_the_tables_have_a_row_for_each_class(found: Classified) -> None:
    report = classification_report(found, [1], "Trial")
    (matrix,) = block(report, "Confusions", Table)
    assert matrix.header == ("true class", *NAMES)
    assert texts(matrix) == [
        ["ant", "33%", "67%", "", ""],
        ["bee <b>", "", "50%", "50%", ""],
        ["cat", "", "", "100%", ""],
        ["dog", "", "", "", ""],
    ]
    assert matrix.rows[0][2].heat == pytest.approx(2 / 3)
    # The worst class comes first.
    (table,) = block(report, "Classes", Table)
    assert texts(table) == [
        ["ant", "3", "33.3%", "bee <b> (2)"],
        ["bee <b>", "2", "50.0%", "cat (1)"],
        ["cat", "1", "100.0%", ""],
        ["dog", "0", "–", ""],
    ]


def test_confusions_are_shown_in_pictures(found: Classified) -> None:
    (groups,) = block(classification_report(found, [1], "Trial"), "Confusions", ImageGroups)
    assert [(group.title, group.note) for group in groups.groups] == [
        ("ant taken for bee <b>", "2 of 3 images"),
        ("bee <b> taken for cat", "1 of 2 images"),
    ]
    shown = groups.groups[0].images
    assert [image.below for image in shown] == ["100%", "48%"]
    assert all(image.source.startswith("data:image/jpeg;base64,") for image in shown)
    # A picture that is gone is an empty frame.
    found.samples[1].path.unlink()
    (groups,) = block(classification_report(found, [1], "Trial"), "Confusions", ImageGroups)
    assert [image.source == "" for image in groups.groups[0].images] == [True, False]
    assert "No such file" in groups.groups[0].images[0].hint


def test_without_errors_it_says_so(found: Classified, tmp_path: Path) -> None:
    right = Classified(found.samples, found.truth, torch.eye(4)[found.truth], NAMES)
    report = classification_report(right, [1], "Trial")
    assert block(report, "Confusions", ImageGroups) == []
    write_report(tmp_path / "report.html", [report])
    assert "Every image is recognised." in (tmp_path / "report.html").read_text()


def test_of_many_classes_the_matrix_shows_those_with_errors(tmp_path: Path) -> None:
    truth = torch.arange(60)
    scores = torch.eye(60)
    scores[40, 50] = 2.0
    samples = [Sample(tmp_path / "x.png", 1, 0)] * 60
    found = Classified(samples, truth, scores, [f"class {index}" for index in range(60)])
    (matrix,) = block(classification_report(found, [1], "Trial"), "Confusions", Table)
    assert len(matrix.rows) == 25
    assert matrix.header[-1] == "other"
    names = [row[0].text for row in matrix.rows]
    assert {"class 40", "class 50"} <= set(names)
    assert names == sorted(names, key=lambda name: int(name.split()[1]))
