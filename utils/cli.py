"""What every entry script does around its work: exit codes and messages."""

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
from utils.process import launched_as

SUCCESS, FAILURE, USER_MISTAKE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def exit_code_of(main: Callable[[], None]) -> int:
    """Run `main`: 0 if it succeeds, 2 with one message for a user's mistake, 1 with a traceback for a failure of ours.

    A signal ends it in order: 130 after SIGINT, 143 after SIGTERM.

    One of several processes that fails ends here and does not return: the others may wait for it for ever.
    """
    code = _exit_code_of(main)
    if code != SUCCESS and is_one_of_several():
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            # It may be closed, or its reader gone; the others must not wait because of that.
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    return code


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """For an option of a command line: reads a whole number in a range, both ends included."""

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
        # torchrun ends all processes once one is gone; the one that tells the user should be through by then.
        time.sleep(1)
        return USER_MISTAKE
    except UserError as error:
        # Before the processes of a machine have met, each finds out for itself what is wrong with the command.
        if is_one_of_several() or launched_as()[0] == 0:
            logger.error("%s", error)
        return USER_MISTAKE
    except KeyboardInterrupt as error:
        logger.error("interrupted")
        return error.exit_code if isinstance(error, Interrupted) else INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; point stdout elsewhere so that closing it does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except OSError as error:
        # A folder or file that cannot be used: the system's own words name it and say why.
        if error.filename is None:
            logger.error("%s", traceback.format_exc())
            return FAILURE
        logger.error("%s: %s", error.filename, error.strerror)
        return USER_MISTAKE
    except Exception:
        logger.error("%s", traceback.format_exc())
        return FAILURE
    return SUCCESS
