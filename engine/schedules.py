"""Learning-rate schedules: the rates of a step are a function of its number, without any state."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from config.params import LearningRate, Params
from utils.errors import ParamsError


class Schedule(NamedTuple):
    """The learning rates over a training."""

    factor: Callable[[int], float]
    """A step, counted from 0 over the whole training -> what every group's base rate is multiplied by."""
    total_steps: int | None = None
    """The steps of the whole training, if the factor depends on them: a run is then only resumed with as many."""


def build_schedule(params: Params, steps_per_epoch: int, total_steps: int) -> Schedule:
    """The schedule that the section `lr` describes.

    Args:
        params: of the run.
        steps_per_epoch: the same in every epoch.
        total_steps: of the whole training; a schedule that ends with it says so.

    Raises:
        ParamsError: a part of it does not fit into the training.
    """
    options, balanced = params.lr, params.batch_sampling_params.class_balanced
    num_warmup = options.warmup_steps or round(options.warmup_epoch * steps_per_epoch)
    warmup_key = "lr.warmup_steps" if options.warmup_steps else "lr.warmup_epoch"
    if num_warmup > total_steps:
        raise _too_long(warmup_key, num_warmup, params, total_steps)
    if options.freeze_backbone_steps >= total_steps:
        raise _too_long(
            "lr.freeze_backbone_steps", options.freeze_backbone_steps, params, total_steps, "; none trains the backbone"
        )
    if options.schedule == "step":
        return Schedule(
            lambda step: (
                warmup(step, num_warmup, options.warmup_factor)
                * step_decay(options, step, steps_per_epoch, class_balanced=balanced)
            )
        )
    # A flat part counts from the first step: the warm-up is a part of it.
    start = max(num_warmup, round(options.flat_epoch * steps_per_epoch))
    if start >= total_steps:
        key = "lr.flat_epoch" if start > num_warmup else warmup_key
        raise _too_long(key, start, params, total_steps, f'; no step is left for lr.schedule "{options.schedule}"')
    return Schedule(
        lambda step: warmup(step, num_warmup, options.warmup_factor) * fall(options, step, start, total_steps),
        total_steps,
    )


def warmup(step: int, num_steps: int, start: float) -> float:
    """Rises linearly from `start` at step 0 to 1 at step `num_steps`, and stays there."""
    return 1.0 if step >= num_steps else start + (1.0 - start) * step / num_steps


def step_decay(options: LearningRate, step: int, steps_per_epoch: int, *, class_balanced: bool) -> float:
    """A factor of `decay_gamma` at each decay step."""
    count_epochs = options.decay_unit == "epoch" or (options.decay_unit == "auto" and not class_balanced)
    done = step // steps_per_epoch if count_epochs else step
    return options.decay_gamma ** num_decays(options.decay_step, done)


def num_decays(decay_step: int | Sequence[int], done: int) -> int:
    """The number of decays after `done` epochs or iterations: one every `decay_step`, or one at each of a list."""
    if isinstance(decay_step, int):
        return done // decay_step if decay_step else 0
    return sum(done >= at for at in decay_step)


def fall(options: LearningRate, step: int, start: int, end: int) -> float:
    """1 until step `start`, then down to `end_factor`, which is reached at step `end`, the one after the last.

    Source: cosine: Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5 without restarts; poly: Chen et al. 2018,
    arXiv 1606.00915, section 4.1.
    """
    done = max(0, step - start) / (end - start)
    if options.schedule == "poly":
        remaining = (1.0 - done) ** options.poly_power
    else:
        remaining = (1.0 + math.cos(math.pi * done)) / 2
    return options.end_factor + (1.0 - options.end_factor) * remaining


def _too_long(key: str, steps: int, params: Params, total_steps: int, why: str = "") -> ParamsError:
    return ParamsError(f"{key}: {steps} steps, but the training has {total_steps} (epoch {params.epoch}){why}")
