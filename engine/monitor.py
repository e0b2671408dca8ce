"""Whether a training still learns: steps that were skipped, exploding losses, branches without gradients.

Everything here looks at plain numbers on the host, after they have been read from the device.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from engine.meter import StepValues
from utils.errors import UserError

logger = logging.getLogger(__name__)

SMOOTHING = 0.95
"""Weight of the past in the smoothed loss: a mean over about the last twenty steps."""
FIRST_STEPS = 100
"""Steps without a warning of the loss: at the start of a training it may rise before it falls."""
EXPLOSION = 10.0
"""So many times its lowest value so far is too much for a smoothed loss."""
SILENT_PATIENCE = 5
"""Watched steps in a row without any gradient after which a branch counts as silent."""
MAX_FILES = 8
"""So many file names a message shows."""
REMEMBERED = ("bad_steps", "bad_terms", "good_steps", "smoothed", "lowest", "start", "silent", "warned")
"""Attributes of a monitor that a saved state holds."""


class DivergedError(UserError):
    """A training is lost.

    Args:
        message: for the user.
        weights_are_good: whether the weights are those of before, so that the state is worth saving.
    """

    def __init__(self, message: str, *, weights_are_good: bool = False) -> None:
        super().__init__(message)
        self.weights_are_good = weights_are_good


class TrainingMonitor:
    """Follows the steps of a training, warns once of each trouble, and ends a training that is lost.

    Args:
        max_bad_steps: so many skipped steps in a row end the training.
    """

    def __init__(self, max_bad_steps: int) -> None:
        self.max_bad_steps = max_bad_steps
        self.bad_steps = 0
        """In a row, up to now."""
        self.bad_terms: list[str] = []
        """Losses that were not finite in this row; empty if only gradients were not."""
        self.good_steps = 0
        self.smoothed = 0.0
        """Weighted sum of the losses of applied steps."""
        self.lowest = math.inf
        """Lowest smoothed loss."""
        self.start = math.inf
        """Smoothed loss after the first steps."""
        self.silent: dict[str, int] = {}
        """Watched steps in a row by silent branch."""
        self.warned: list[str] = []
        """What was warned of."""

    def state_dict(self) -> dict[str, Any]:
        """Everything remembered, as plain values."""
        return {name: deepcopy(getattr(self, name)) for name in REMEMBERED}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        for name in REMEMBERED:
            setattr(self, name, deepcopy(state_dict[name]))

    def inspect(self, steps: Iterable[StepValues], image_paths: Sequence[Path], circumstances: str) -> None:
        """Take in steps in order.

        Args:
            steps: their values.
            image_paths: files of the training images.
            circumstances: learning rates and precision, as a message shows them.

        Raises:
            DivergedError: too many in a row were skipped.
        """
        for values in steps:
            # Counted from 1, as in the curves.
            number = values.number + 1
            if values.is_finite:
                self.good_step(number, sum(values.losses.values()))
                if values.silent is not None:
                    self.silent_branches(values.silent, number)
            else:
                files = [image_paths[image] for image in values.bad_images]
                self.bad_step(number, values.losses, files, circumstances)

    def good_step(self, step: int, loss: float) -> None:
        """Take in a step that was applied; warns once if the loss explodes.

        The loss explodes if its smoothed value is ten times its lowest so far, and at least half of its value after the
        first steps: a loss near zero may be ten times higher at times.
        """
        self.bad_steps, self.bad_terms = 0, []
        self.good_steps += 1
        self.smoothed = SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss
        # Divided by the weights' sum, it is a mean from the first step on.
        mean = self.smoothed / (1 - SMOOTHING**self.good_steps)
        self.lowest = min(self.lowest, mean)
        if self.good_steps <= FIRST_STEPS:
            self.start = mean
        elif mean > EXPLOSION * self.lowest and mean > self.start / 2:
            self._warn_once(
                "loss",
                f"step {step}: the loss has risen to {mean:.4g}, {mean / self.lowest:.0f} times its lowest value so far"
                f" ({self.lowest:.4g}); unless a setting has just made it harder, such as a margin or the spectral"
                " transform, lower lr or warm up longer",
            )

    def bad_step(self, step: int, terms: Mapping[str, float], files: Sequence[Path], circumstances: str) -> None:
        """Take in a step that was not applied, and warn of it.

        Args:
            step: its number.
            terms: each loss by name, finite or not.
            files: images it may be the fault of.
            circumstances: learning rates and precision, as a message shows them.

        Raises:
            DivergedError: it is the last of `max_bad_steps` in a row; the caller has yet to save the state.
        """
        self.bad_steps += 1
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        self.bad_terms += [name for name in bad if name not in self.bad_terms]
        values = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        logger.warning(
            "step %d was not applied, %s not finite: %s; %s; the weights stay as they were; its images:\n%s",
            step,
            _are(bad) if bad else "every loss is, but the gradient is",
            values,
            circumstances,
            _listed(files),
        )
        if self.bad_steps >= self.max_bad_steps:
            raise DivergedError(self._diagnosis(step, circumstances), weights_are_good=True)

    def silent_branches(self, names: Iterable[str], step: int) -> None:
        """Take in a step at which the branches were watched; warns once of each that no gradient reaches any more.

        Args:
            names: branches whose gradients were all zero or missing.
            step: its number; steps that were not watched must not come here.
        """
        self.silent = {name: self.silent.get(name, 0) + 1 for name in names}
        for name, steps in self.silent.items():
            if steps >= SILENT_PATIENCE:
                self._warn_once(
                    f"branch {name}",
                    f'step {step}: no gradient has reached the branch "{name}" at {steps} watched steps in a row, so it'
                    " does not learn: no loss looks at it, every triplet is satisfied, or its activations are all zero;"
                    " look at its losses in TensorBoard, and at tri_loss_on and tri_loss_lambda_cls",
                )

    def _diagnosis(self, step: int, circumstances: str) -> str:
        """Why the training ends, and what to do."""
        if self.bad_terms:
            reason = f"{_are(self.bad_terms)} not finite"
            images = "look at the images that the log names: one of them may be damaged"
        else:
            reason = "the losses are finite, but their gradient is not"
            images = "look at the images that the log names: two of them may be the same"
        half = "bf16" in circumstances or "fp16" in circumstances
        wider = 'set precision to "fp32", whose range is wider or finer; ' if half else ""
        steps = f"{self.bad_steps} steps in a row" if self.bad_steps > 1 else "1 step"
        return (
            f"training has diverged: skipped {steps} up to step {step}, as {reason} ({circumstances}); lower lr"
            f" or warm up longer (lr.warmup_epoch); {wider}{images}. The weights are those of before; a longer row is"
            " allowed with a higher max_bad_steps"
        )

    def _warn_once(self, what: str, message: str) -> None:
        if what not in self.warned:
            self.warned.append(what)
            logger.warning("%s", message)


def _are(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _listed(files: Sequence[Path]) -> str:
    """One file a line, the first few of them."""
    lines = [f"  {path}" for path in files[:MAX_FILES]]
    if len(files) > MAX_FILES:
        lines.append(f"  and {len(files) - MAX_FILES} more")
    return "\n".join(lines)
