"""Too little memory on the device is the user's to mend: nothing is made smaller in silence."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.errors import UserError


@contextmanager
def out_of_memory_told(doing: str, advice: str) -> Iterator[None]:
    """Tell of a device that has run out of memory.

    Args:
        doing: what took the memory, with its sizes.
        advice: what to lower.

    Raises:
        UserError: it has.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of memory, {doing}: {str(error).splitlines()[0]}\n{advice}") from error
