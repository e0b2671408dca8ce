"""The learning rate as a function of the step. It has no state, so there is none to save or to restore."""

from collections.abc import Sequence

from config.params import LearningRate


def lr_factor(options: LearningRate, step: int, steps_per_epoch: int, *, class_balanced: bool) -> float:
    """What both learning rates are multiplied by at a step (counted from 0 over the whole training)."""
    count_epochs = options.decay_unit == "epoch" or (options.decay_unit == "auto" and not class_balanced)
    done = step // steps_per_epoch if count_epochs else step
    decays = num_decays(options.decay_step, done)
    return warmup(step, round(options.warmup_epoch * steps_per_epoch), options.warmup_factor) * (
        options.decay_gamma**decays
    )


def warmup(step: int, num_steps: int, start: float) -> float:
    """Rises linearly from `start` at step 0 to 1 at step `num_steps`, and stays there."""
    return 1.0 if step >= num_steps else start + (1.0 - start) * step / num_steps


def num_decays(decay_step: int | Sequence[int], done: int) -> int:
    """How many decays lie behind after `done` epochs or iterations: one every `decay_step`, or at each one named."""
    if isinstance(decay_step, int):
        return done // decay_step if decay_step else 0
    return sum(done >= at for at in decay_step)
