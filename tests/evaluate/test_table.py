"""The table of metrics on the screen."""

import doctest
import re

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


def ends_of_words(line):
    return [word.end() for word in re.finditer(r"\S+", line)]
