"""The exceptions that the command line turns into a single clear line."""

import math


class InputError(ValueError):
    """Something the user gave is wrong. The message says what, where and how to mend it. Exit code 2."""


class EngineLostError(InputError):
    """The engine died again and again, which another machine might not see. Exit code 75 (EX_TEMPFAIL of sysexits)."""


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
