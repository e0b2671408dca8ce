"""What every entry script does around its work: exit codes and messages."""

import logging
import os
import sys
import traceback
from collections.abc import Callable

from utils.errors import ToldElsewhereError, UserError

SUCCESS, FAILURE, USER_MISTAKE, INTERRUPTED = 0, 1, 2, 130


def exit_code_of(main: Callable[[], None]) -> int:
    """Run `main`: 0 if it succeeds, 2 with one message for a user's mistake, 130 if interrupted, 1 with a traceback."""
    logger = logging.getLogger(__name__)
    try:
        main()
    except ToldElsewhereError:
        return USER_MISTAKE
    except UserError as error:
        logger.error("%s", error)
        return USER_MISTAKE
    except KeyboardInterrupt:
        logger.error("interrupted")
        return INTERRUPTED
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
