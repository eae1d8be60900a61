"""The one error type for everything a user can mend."""


class InputError(ValueError):
    """Bad input: the message names the item, its file and the remedy.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """
