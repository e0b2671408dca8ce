"""Several processes stop together: what goes wrong in one is told once, by the first, and ends them all."""

from collections.abc import Iterator
from contextlib import contextmanager

from utils.distributed import gather_objects, this_process
from utils.errors import ToldElsewhereError, UserError


@contextmanager
def agreed() -> Iterator[None]:
    """Every process gets through this block, or none does. Inside it processes must not wait for each other.

    Raises:
        UserError: one was raised in some process. Rank 0 raises it, with the messages of all that differ; the others
            raise ToldElsewhereError.
    """
    mine: UserError | None = None
    try:
        yield
    except UserError as error:
        mine = error
    dist = this_process()
    if dist.world_size == 1:
        if mine is not None:
            raise mine
        return
    messages = gather_objects(None if mine is None else str(mine))
    if all(message is None for message in messages):
        return
    if not dist.is_main:
        raise ToldElsewhereError
    raise UserError(_combined(messages))


def _combined(messages: list[str | None]) -> str:
    """Each message once; with the ranks it comes from, unless it comes from all."""
    ranks_of: dict[str, list[str]] = {}
    for rank, message in enumerate(messages):
        if message is not None:
            ranks_of.setdefault(message, []).append(str(rank))
    if len(ranks_of) == 1 and None not in messages:
        return next(iter(ranks_of))
    return "\n".join(
        f"process{'es' if len(ranks) > 1 else ''} {', '.join(ranks)} of {len(messages)}: {message}"
        for message, ranks in ranks_of.items()
    )
