"""Progress of an epoch: a bar on a terminal, now and then a line elsewhere."""

import logging
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from tqdm import tqdm

from utils.logs import bars_hidden

SECONDS_BETWEEN_LINES = 15.0

logger = logging.getLogger(__name__)


class Progress:
    """Shows how far an epoch is, with its loss, accuracy, speed and the time left.

    Args:
        title: what stands at the front, such as "epoch 3/12".
        total: images in the epoch.
        done: how many of them are through already.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title = title
        self.total = total
        self.done = self.done_before = done
        self.start = self.last_line = time.monotonic()
        self.bar = tqdm(
            total=total, initial=done, desc=title, unit="img", leave=False, dynamic_ncols=True, disable=bars_hidden()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bar off the screen."""
        self.bar.close()

    def update(self, done: int, values: Mapping[str, float]) -> None:
        """Tell that `done` images of the epoch are through, and the values of the steps since the last call."""
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        self.bar.set_postfix_str(shown, refresh=False)
        self.bar.update(done - self.done)
        self.done = done
        now = time.monotonic()
        if self.bar.disable and now - self.last_line >= SECONDS_BETWEEN_LINES and done < self.total:
            speed = (done - self.done_before) / (now - self.start)
            left = (self.total - done) / speed
            logger.info("%s: %d/%d  %s  %.0f examples/s  %.0f s left", self.title, done, self.total, shown, speed, left)
            self.last_line = now
