"""The one exception that the command line turns into a single clear line and exit code 2."""


class InputError(ValueError):
    """Something the user gave is wrong. The message says what, where and how to mend it."""
