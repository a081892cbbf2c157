"""The one exception that the command line turns into a single clear line and exit code 2."""

import math


class InputError(ValueError):
    """Something the user gave is wrong. The message says what, where and how to mend it."""


def above(limit: int, **given: float) -> None:
    """Hold numbers, by their options' names, above a limit.

    Raises:
        InputError: one is not, is infinite or no number.
    """
    for name, value in given.items():
        if not limit < value < math.inf:
            raise InputError(f"{name}: is {value}; give more than {limit}")


def at_least(least: int, **given: float) -> None:
    """Hold numbers, by their options' names, to a lower limit.

    Raises:
        InputError: one is less, infinite or no number.
    """
    for name, value in given.items():
        if not least <= value < math.inf:
            raise InputError(f"{name}: is {value}; give at least {least}")
