"""The table of metrics on the screen."""

import doctest
import re

import pytest

from evaluate.core import table


def test_docstring_example():
    results = doctest.testmod(table)
    assert results.attempted
    assert not results.failed


def test_columns_line_up_whatever_the_names():
    names, values = table.metrics_table({"a": 1.0, "mAP_trapezoid": 0.0, "mINP": 0.12345}).split("\n")
    assert len(names) == len(values)
    assert values.split() == ["100.00%", "0.00%", "12.35%"]
    assert ends_of_words(names) == ends_of_words(values)


def test_columns_of_several_data_sets_line_up():
    rows = {"market": {"mAP": 1.0, "rank1": 0.5}, "a longer name": {"rank1": 0.25, "threshold_at_far_0.1": 12.5}}
    lines = table.comparison_table(rows).split("\n")
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["mAP", "rank1", "threshold_at_far_0.1"]
    assert lines[1].split() == ["market", "100.00%", "50.00%", "-"]
    assert lines[2].split() == ["a", "longer", "name", "-", "25.00%", "12.5000"]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("fidelity", "25.00%"),
        ("kidney", "25.00%"),
        ("threshold_at_far_0.1", "0.2500"),
        ("fid", "0.25"),
        ("kid", "0.25"),
    ],
)
def test_only_thresholds_and_the_distances_of_generators_are_no_fractions(name, cell):
    assert table.metrics_table({name: 0.25}).split() == [name, cell]
    assert table.is_fraction(name) == cell.endswith("%")


def test_columns_of_long_numbers_line_up():
    names, values = table.metrics_table({"kid": -0.0012345, "fid": 123.456, "recall": 0.5}).split("\n")
    assert values.split() == ["-0.001234", "123.5", "50.00%"]
    assert ends_of_words(names) == ends_of_words(values)


def ends_of_words(line):
    return [word.end() for word in re.finditer(r"\S+", line)]
