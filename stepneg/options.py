"""Options parsed: without abbreviations, and with mistakes told in one line."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jsonargparse

from stepneg.config_files import read_given
from stepneg.errors import InputError
from stepneg.mistakes import explain


class Strict:
    """A parser that raises, and reads no abbreviation, which a later option might make another's; before its base."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"exit_on_error": False, "allow_abbrev": False} | kwargs))


class Parser(Strict, jsonargparse.ArgumentParser):
    """The parser of stepneg's own verbs."""


def parse(
    parser: jsonargparse.ArgumentParser,
    argv: Sequence[str],
    places: Mapping[str, str] | None = None,
) -> jsonargparse.Namespace:
    """The options of a command line.

    Args:
        parser: with ``exit_on_error=False``.
        argv: the command line.
        places: where words of ``argv`` come from, as ``--data.seed`` from a line of a chain's file.

    Raises:
        InputError: a mistake in ``argv`` or in a file that it names; one line with place, mistake and mend.
    """
    given = read_given(argv)
    try:
        return parser.parse_args(list(argv))
    except jsonargparse.ArgumentError as error:
        raise InputError(explain(str(error), parser, argv, given, places or {})) from error


def call(function: Callable[..., Any], argv: list[str], verb: str, positional: list[str]) -> Any:
    """Call a function with command-line arguments, those of ``positional`` by place and all others by name."""
    parser = parser_of(function, verb, positional)
    arguments = parser.instantiate_classes(parse(parser, argv))
    return function(**{name: arguments[name] for name in inspect.signature(function).parameters})


def parser_of(function: Callable[..., Any], verb: str, positional: list[str]) -> jsonargparse.ArgumentParser:
    """The parser of :func:`call`."""
    brief = (function.__doc__ or "").split("Args:")[0]
    parser = Parser(prog=f"stepneg {verb}", description=brief)
    parser.add_argument("--config", action="config", help="options in a YAML file")
    named = [name for name in inspect.signature(function).parameters if name not in positional]
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=set(named))
    parser.add_function_arguments(function, as_group=False, skip=set(positional))
    return parser
