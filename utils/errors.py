"""The mistakes a user can make, shown as one readable message and exit code 2, never as a traceback."""


class UserError(Exception):
    """Something the user can put right. The message says where, what is wrong, and what to do."""


class ParamsError(UserError):
    """One or more mistakes in a params file, its overrides or the command line."""


class DataError(UserError):
    """A data set, image, checkpoint or run folder that cannot be used as it is."""


class ToldElsewhereError(UserError):
    """Another process of the run tells the user; this one ends without a word."""
