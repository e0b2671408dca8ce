"""Errors that a user can correct, shown as one message with exit code 2, without a traceback."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make its folder writable again"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ESTALE), "bring its folder back"),
}
"""What to do where a file cannot be written, by the system's reason."""


class UserError(Exception):
    """An error that the user can correct. The message says where, what is wrong, and what to do."""


class ParamsError(UserError):
    """One or more mistakes in a params file, its overrides or the command line."""


class DataError(UserError):
    """A data set, image, checkpoint or run folder that cannot be used as it is."""


class ReportedByOtherRankError(UserError):
    """Another process of the run reports the error; this one ends silently."""


@contextmanager
def optional_imports(what: str, install: str) -> Iterator[None]:
    """Turns a missing package into a user error: "the service needs the package uvicorn; install it: pip install ...".

    Args:
        what: needs the packages that are imported in the block.
        install: the command that installs them.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{what} needs the package {error.name}; install it: {install}") from error


def with_advice(error: OSError) -> str:
    """Why something cannot be written and, where known, what to do: "No space left on device; free some space"."""
    advice = f"; {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
    return f"{error.strerror or error}{advice}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
