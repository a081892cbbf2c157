"""Configuration files within bounds: a few lines of YAML can stand for 10^9 values, or for one that holds itself."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from stepneg.errors import InputError

LOAD = jsonargparse.get_loader("yaml")
LONGEST = 1 << 20  # characters
MOST_VALUES = 100_000  # with each alias counted as what it stands for


def expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for.

    Raises:
        YAMLError: it stands for itself, or for too many.
    """
    if id(node) not in known:
        known[id(node)] = MOST_VALUES  # what it holds while it is being counted is itself
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        known[id(node)] = 1 + sum(expanded(part, known) for part in inside)
        if known[id(node)] > MOST_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MOST_VALUES:,} values; write fewer")
    return known[id(node)]


def bounded(text: str) -> Any:
    """What a text of YAML stands for.

    Raises:
        YAMLError: it is no YAML, too long, too deep, or stands for too much.
    """
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"it has {len(text):,} characters; a configuration has at most {LONGEST:,}")
    try:
        if "*" in text and "&" in text:  # without an alias there is no more than is written
            node = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            if node is not None:
                expanded(node, {})
        return LOAD(text)
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from error


def bound_yaml() -> None:
    """Have jsonargparse read YAML by :func:`bounded`."""
    jsonargparse.set_loader("yaml", bounded, (yaml.YAMLError,))


def check_files(argv: Sequence[str]) -> None:
    """Refuse configuration files that are too long to be read, or no text.

    Raises:
        InputError: the first such file.
    """
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name = following if word == "--config" else word.removeprefix("--config=")
        if not word.startswith("--config") or not os.path.isfile(name):
            continue
        if (size := os.path.getsize(name)) > 4 * LONGEST:  # bytes of a character
            raise InputError(f"{name}: has {size:,} bytes; a configuration has at most {LONGEST:,} characters")
        try:
            Path(name).read_bytes().decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from error
