"""Entry scripts: exit codes and messages."""

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from utils.distributed import is_one_of_several
from utils.errors import ReportedByOtherRankError, UserError
from utils.interrupts import Interrupted, interrupts_raised
from utils.process import is_launched, launched_as

SUCCESS, FAILURE, USER_MISTAKE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def exit_code_of(main: Callable[[], None]) -> int:
    """Run `main`: 0 for success, 2 with one message for a user error, 1 with a traceback for an internal error.

    A signal ends it in order: 130 after SIGINT, 143 after SIGTERM. A process that torchrun started exits here: one that
    fails must not clean up the process group, as the others may wait for it, and after a success torch's threads have
    been seen to abort the process while Python cleans up.
    """
    code = _exit_code_of(main)
    if is_launched():
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            # It may be closed, or nobody reads it any more.
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    return code


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A type for argparse: a whole number from `least` to `most`."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a number from {least} to {most:,}, got {text}")
        return int(text)

    return read


def _exit_code_of(main: Callable[[], None]) -> int:
    logger = logging.getLogger(__name__)
    try:
        with interrupts_raised():
            main()
    except ReportedByOtherRankError:
        # torchrun ends all processes once one has exited: give rank 0 time to report.
        time.sleep(1)
        return USER_MISTAKE
    except UserError as error:
        # Before the process group exists, every process of a machine finds the same error.
        if is_one_of_several() or launched_as()[0] == 0:
            logger.error("%s", error)
        return USER_MISTAKE
    except KeyboardInterrupt as error:
        logger.error("interrupted")
        return error.exit_code if isinstance(error, Interrupted) else INTERRUPTED
    except BrokenPipeError:
        # The reader of the output (head, less) has ended; closing stdout must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except OSError as error:
        # A folder or file that cannot be used: show the system's reason.
        if error.filename is None:
            logger.error("%s", traceback.format_exc())
            return FAILURE
        logger.error("%s: %s", error.filename, error.strerror)
        return USER_MISTAKE
    except Exception:
        logger.error("%s", traceback.format_exc())
        return FAILURE
    return SUCCESS
