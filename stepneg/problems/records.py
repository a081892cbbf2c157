"""Rows of a JSONL file or of a dataset on the Hugging Face hub, each with the place that an error message names."""

import codecs
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from textwrap import shorten

from stepneg.errors import InputError
from stepneg.reading import LONGEST_LINE, byte_lines

HUB = "hub:"
HUB_NAME = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?")


@dataclass(frozen=True)
class Record:
    """One row and where it stands.

    Attributes:
        where: file and 1-based line, or hub dataset and 0-based row.
        values: the row's fields.
    """

    where: str
    values: Mapping[str, object]

    def text(self, key: str, empty: bool = False) -> str:
        """The text under ``key``; a blank one only where ``empty`` allows it.

        Raises:
            InputError: the key is missing, or what it holds is not usable text.
        """
        if key not in self.values:
            there = shorten(", ".join(self.values), 200)
            raise InputError(f"{self.where}: key {key!r} is missing (there are {there}); add it")
        value = self.values[key]
        if not isinstance(value, str):
            raise InputError(f"{self.where}: key {key!r} holds {type(value).__name__}; put a string there")
        if not (empty or value.strip()):
            raise InputError(f"{self.where}: key {key!r} is empty; fill it in or drop the row")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{self.where}: key {key!r} holds half a surrogate pair; write the whole character"
            ) from error
        return value

    def text_or_number(self, key: str) -> str:
        """The text under ``key``; a JSON number is taken as it prints, unless that is infinite or none."""
        value = self.values.get(key)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{self.where}: key {key!r} holds {value}; write a number within range, or a text")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        return self.text(key)


def read_records(source: str | Path, split: str, limit: int | None) -> list[Record]:
    """The first ``limit`` rows of a JSONL file, or of ``hub:owner/name[:config]`` and its ``split``.

    Raises:
        InputError: the source cannot be read, holds no row, or a row is malformed.
    """
    if limit is not None and limit < 1:
        raise InputError(f"{source}: limit is {limit}; give at least 1, or leave it out for all rows")
    on_hub = str(source).startswith(HUB)
    rows = hub_records(str(source), split) if on_hub else jsonl_records(Path(source))
    records = list(islice(rows, limit))
    if not records:
        raise InputError(f"{source}: holds no rows; give a file with one JSON object a line")
    return records


def jsonl_records(path: Path) -> Iterator[Record]:
    """The rows of a JSONL file in UTF-8; blank lines are passed over."""
    try:
        for number, line in byte_lines(path):
            where = f"{path}, line {number}"
            if len(line) > LONGEST_LINE:
                raise InputError(f"{where}: longer than {LONGEST_LINE >> 20} MiB; write one JSON object a line")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield parse_line(line, where)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: {reason}; give a JSONL file, or {HUB}owner/name[:config]") from error


def parse_line(line: bytes, where: str) -> Record:
    """The record of one line of JSONL."""
    try:
        values = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}; write one JSON object a line") from error
    if not isinstance(values, dict):
        raise InputError(f"{where}: holds {type(values).__name__}; write one JSON object a line")
    return Record(where, values)


def hub_records(source: str, split: str) -> Iterator[Record]:
    """The rows of ``hub:owner/name[:config]``."""
    import datasets  # takes a second to import, and most runs read local files

    named = HUB_NAME.fullmatch(source)
    if not named:
        raise InputError(f"{source}: not the name of a dataset on the hub; write {HUB}owner/name[:config]")
    try:
        rows = datasets.load_dataset(named["name"], named["config"], split=split)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{source}, split {split}: cannot be loaded: {reason}; check the name and the network, or give a JSONL file"
        ) from error
    for index, values in enumerate(rows):
        yield Record(f"{source}, {split} row {index}", values)
