"""Metrics of the images of each data set in a batch."""

import math

import pytest
import torch

from engine.meter import Meter
from losses.batch_metrics import BatchMetrics, ClassSources
from losses.loss import Losses, LossInputs
from models.outputs import GLOBAL, PARTS, NetworkSizes
from tests.losses.conftest import draw_output

SIZES = NetworkSizes(5, {PARTS: (3, 4), GLOBAL: (1, 8)})
NAMES = ("a", "b", "c")
SOURCES = ClassSources(NAMES, (0, 0, 1, 1, 2))
BATCHES = torch.tensor([[0, 0, 1, 2, 3, 3], [0, 1, 1, 1, 0, 0]])


def inputs_of(labels: torch.Tensor) -> LossInputs:
    return LossInputs(draw_output(SIZES), labels, torch.tensor(0), None, None)


def test_means_are_over_the_images_of_each_data_set_in_all_batches() -> None:
    module, meter = BatchMetrics(SOURCES), Meter()
    meter.ratios = module.ratios
    losses: dict[str, list[float]] = {name: [] for name in NAMES}
    right: dict[str, list[bool]] = {name: [] for name in NAMES}
    for number, labels in enumerate(BATCHES):
        inputs = inputs_of(labels)
        found = module(inputs)
        meter.add(number, [range(6)], [Losses({"loss": torch.ones(())}, found.metrics)], torch.tensor(True), {})
        for image, label in enumerate(labels.tolist()):
            name = NAMES[SOURCES.numbers[label]]
            for branch in inputs.output.values():
                for logits in branch.scores.logits[:, image].tolist():
                    losses[name].append(math.log(sum(map(math.exp, logits))) - logits[label])
                    right[name].append(max(logits) == logits[label])
    meter.collect()
    means = meter.means().metrics
    for name in ("a", "b"):
        assert means[f"cross_entropy/{name}"] == pytest.approx(sum(losses[name]) / len(losses[name]), rel=1e-5)
        assert means[f"accuracy/{name}"] == pytest.approx(sum(right[name]) / len(right[name]), rel=1e-5)
    assert means["share/a"] == pytest.approx(9 / 12)
    assert math.isnan(means["cross_entropy/c"])
    assert means["share/c"] == 0


def test_one_data_set_has_no_metrics_of_its_own() -> None:
    assert BatchMetrics()(inputs_of(BATCHES[0])).metrics.keys() == {"accuracy"}
    assert BatchMetrics().state_dict() == BatchMetrics(SOURCES).state_dict() == {}
