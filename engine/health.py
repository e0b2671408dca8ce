"""Whether a training still learns: steps that came to nothing, exploding losses, silent branches, dead samplers.

Everything here looks at plain numbers on the host, after they have been read from the device.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
MIN_COMPARED = 20
"""Distinct images from which on two random orders are never alike by chance: less than once in 100 million times."""


class DivergedError(UserError):
    """Too many steps in a row had losses or gradients that are not finite."""


class Health:
    """Remembers what the steps of a training came to, warns once of each trouble, and ends a training that is lost.

    Args:
        max_bad_steps: so many steps in a row that were not applied end the training.
    """

    def __init__(self, max_bad_steps: int) -> None:
        self.max_bad_steps = max_bad_steps
        self.bad_steps = 0
        """In a row, up to now."""
        self.bad_terms: list[str] = []
        """Losses that were not finite in this row; empty if only gradients were not."""
        self.good_steps = 0
        self.smoothed = 0.0
        """Weighted sum of the losses of good steps; `_mean` makes a mean of it."""
        self.lowest = math.inf
        """Lowest smoothed loss."""
        self.start = math.inf
        """Smoothed loss after the first steps."""
        self.silent: dict[str, int] = {}
        """Watched steps in a row by silent branch."""
        self.warned: list[str] = []
        """What was warned of."""

    def state(self) -> dict[str, Any]:
        """Everything remembered, as plain values."""
        return {
            "bad_steps": self.bad_steps,
            "bad_terms": list(self.bad_terms),
            "good_steps": self.good_steps,
            "smoothed": self.smoothed,
            "lowest": self.lowest,
            "start": self.start,
            "silent": dict(self.silent),
            "warned": list(self.warned),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.bad_steps, self.bad_terms = state["bad_steps"], list(state["bad_terms"])
        self.good_steps, self.smoothed = state["good_steps"], state["smoothed"]
        self.lowest, self.start = state["lowest"], state["start"]
        self.silent, self.warned = dict(state["silent"]), list(state["warned"])

    def good_step(self, step: int, loss: float) -> None:
        """Take in a step that was applied; warns once of a loss that explodes.

        It does where the smoothed loss is ten times its lowest value so far, and at least half of what it was after the
        first steps: a loss near zero may well be ten times higher at times.
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
            raise DivergedError(self._diagnosis(step, circumstances))

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

    def complain(self, what: str, complaint: str) -> None:
        """Warn once of `what`, such as "sampler", if there is a complaint, a sentence that is not empty."""
        if complaint:
            self._warn_once(what, f"{what}: {complaint}")

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
        steps = f"{self.bad_steps} steps in a row" if self.bad_steps > 1 else "a step"
        return (
            f"training has diverged: {steps} up to step {step} came to nothing, as {reason} ({circumstances}); lower lr"
            f" or warm up longer (lr.warmup_epoch); {wider}{images}. No such step was applied; a longer row is let pass"
            " with a higher max_bad_steps"
        )

    def _warn_once(self, what: str, message: str) -> None:
        if what not in self.warned:
            self.warned.append(what)
            logger.warning("%s", message)


def sampler_complaint(
    batches: Sequence[Sequence[int]],
    labels: Sequence[int],
    previous: Sequence[Sequence[int]] | None,
    num_images: int,
    wants_triplets: bool,
) -> str:
    """What is wrong with the batches of an epoch, in one sentence; "" if nothing is.

    Args:
        batches: of the epoch, each over all processes, as indices of training images.
        labels: class of each training image.
        previous: batches of the epoch before; None for the first.
        num_images: training images.
        wants_triplets: whether a loss compares images of the same and of another identity.
    """
    if previous is not None and _is_repeated(batches, previous):
        return "the batches are those of the epoch before, in the same order; shuffle by epoch"
    identities = [{labels[index] for index in batch} for batch in batches]
    images = [len(set(batch)) for batch in batches]
    for number, batch in enumerate(batches):
        if len(batch) > 1 and images[number] == 1:
            return f"batch {number} holds one image only, {len(batch)} times; take more identities per batch"
    of_one = sum(len(each) == 1 for each in identities)
    if _is_no_chance(of_one, batches, labels):
        return f"{of_one} of {len(batches)} batches hold one identity only; take more identities per batch"
    if wants_triplets and not any(len(each) > 1 for each in identities):
        return "no batch holds two identities, so there are no triplets; take more identities per batch"
    if wants_triplets and not any(count > len(each) for count, each in zip(images, identities, strict=True)):
        return "no batch holds two images of one identity, so there are no triplets; set class_balanced"
    missing = set(labels).difference(*identities)
    if missing and sum(map(len, identities)) >= len(set(labels)):
        drawn = sum(map(len, batches))
        return (
            f"{len(missing)} identities (class {min(missing)} is the first) were never drawn in an epoch of {drawn}"
            f" draws from {num_images} images, which has places for all"
        )
    return ""


def _is_repeated(batches: Sequence[Sequence[int]], previous: Sequence[Sequence[int]]) -> bool:
    """Whether two epochs are the same, and so large that it is no chance."""
    same = len(batches) == len(previous) and all(
        list(one) == list(two) for one, two in zip(batches, previous, strict=True)
    )
    return same and len(set().union(*batches)) >= MIN_COMPARED


def _is_no_chance(found: int, batches: Sequence[Sequence[int]], labels: Sequence[int]) -> bool:
    """Whether so many batches of a single identity are more than random draws give.

    Source: Chernoff's bound on a binomial count, P(X >= n) <= (e mean / n)^n.
    """
    counts = Counter(labels).values()
    if not found or len(counts) < 2:
        return False
    sizes = Counter(map(len, batches))
    mean = sum(number * sum((count / len(labels)) ** size for count in counts) for size, number in sizes.items())
    return found > mean and (math.e * mean / found) ** found < 1e-9


def _are(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _listed(files: Sequence[Path]) -> str:
    """One file a line, the first few of them."""
    lines = [f"  {path}" for path in files[:MAX_FILES]]
    if len(files) > MAX_FILES:
        lines.append(f"  and {len(files) - MAX_FILES} more")
    return "\n".join(lines)
