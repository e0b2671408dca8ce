"""A training is gone as soon as nobody needs it, without the garbage collector's help."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from tests.gan.conftest import Bench


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_a_training_of_a_reid_network_is_freed_when_it_is_over(bench: Bench) -> None:
    """What lives on to the interpreter's end, a process group's threads above all, may abort it there."""
    training = bench.reid({"mix_ratio": 0.0}, epoch=1)
    bench.fit("run", training)
    remains = weakref.ref(training.stepper)
    del training
    assert remains() is None


def test_a_training_of_a_generator_is_freed_when_it_is_over(bench: Bench) -> None:
    training = bench.generator(gan={"epoch": 1})
    bench.fit("run", training)
    remains = weakref.ref(training.adversaries)
    del training
    assert remains() is None
