"""Charts: well-formed, in the page's colours, saying the right numbers, and drawn for odd data too."""

import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import torch

from evaluate.core.report.charts import ap_chart, cmc_chart, distance_chart, roc_chart
from evaluate.core.report.svg import INK, draw, hint
from evaluate.core.verification.roc import roc


def titles(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("title")]


def test_the_user_s_own_settings_neither_matter_nor_change():
    expected = draw(lambda axes: axes.plot([1, 2], [3, 4], color=INK))
    with mpl.rc_context({"lines.linewidth": 9.0, "svg.fonttype": "path", "axes.grid": False}):
        assert draw(lambda axes: axes.plot([1, 2], [3, 4], color=INK)) == expected
        assert mpl.rcParams["lines.linewidth"] == 9.0
        assert mpl.rcParams["svg.fonttype"] == "path"


def test_texts_and_tooltips_are_escaped_and_never_mathematics():
    def plot(axes):
        (line,) = axes.plot([1, 2], [3, 4], label="<b> & $x^2$")
        hint(line, """<b> & "quoted" $x$""")
        axes.legend()

    svg = draw(plot)
    assert titles(svg) == ["""<b> & "quoted" $x$"""]
    assert "&lt;b&gt; &amp; $x^2$" in svg


def test_cmc_tells_its_values_and_where_its_axis_begins():
    cmc = np.minimum(1.0, 0.8 + 0.01 * np.arange(50))
    chart = cmc_chart(cmc)
    assert titles(chart.svg) == ["rank-1: 80.00%", "rank-5: 84.00%", "rank-10: 89.00%", "rank-20: 99.00%"]
    assert "begins at 75%" in chart.caption


@pytest.mark.parametrize("cmc", [np.ones(50), np.zeros(3), np.array([1.0]), np.linspace(0.001, 0.02, 50)])
def test_cmc_of_any_height_and_length(cmc):
    assert len(titles(cmc_chart(cmc).svg)) == sum(k <= len(cmc) for k in (1, 5, 10, 20))


def test_every_query_stands_in_one_bar():
    ap = np.array([0.0, 0.02, 0.5, 0.51, 0.999, 1.0, 1.0])
    chart = ap_chart(ap)
    counts = [int(re.search(r": (\d+) queries", title)[1]) for title in titles(chart.svg)]  # pyright: ignore
    assert counts == [2, *[0] * 9, 2, *[0] * 8, 3]
    assert "51.0% or more; 28.6% have less" in chart.caption


def test_roc_marks_the_equal_error_if_there_is_any():
    impostor = torch.tensor([0.25, 0.7, 0.8, 0.9])
    curve, perfect = (roc(torch.tensor(genuine), impostor) for genuine in ([0.1, 0.2, 0.3, 0.6], [0.1, 0.2]))
    assert titles(roc_chart(curve).svg) == [f"equal error rate {curve.eer:.2%}"]
    assert (perfect.eer, titles(roc_chart(perfect).svg)) == (0.0, [])


@pytest.mark.parametrize("threshold", [None, 0.0, 0.4])
def test_distances_are_drawn_as_shares(threshold):
    chart = distance_chart(np.linspace(0, 1, 5), np.array([8, 2, 0, 0]), np.array([0, 0, 0, 0]), threshold)
    assert ("equal error at" in chart.svg) == (threshold is not None)
    assert "75%" in chart.svg  # the highest tick: one bin holds 80% of the genuine pairs
    assert "100%" not in chart.svg
