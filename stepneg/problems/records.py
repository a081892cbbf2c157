"""Rows of JSONL, Parquet and datasets, on disk or on the Hugging Face hub, each with the place that an error names.

Nothing of a file is run: Parquet and Arrow are read by pyarrow, and hub datasets that bring a script are refused by
``datasets`` itself.
"""

import codecs
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

from stepneg.errors import InputError
from stepneg.reading import LONGEST_LINE, byte_lines

HUB = "hub:"
HUB_NAME = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?")


@dataclass(frozen=True)
class Record:
    """One row and where it stands.

    Attributes:
        where: file and 1-based line of JSONL; file, or dataset on the hub, and 0-based row of a table.
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

    def fact(self, key: str) -> str | int:
        """The text or number under ``key``; a whole number stays one, so that a table can order by it."""
        value = self.values.get(key)
        return value if type(value) is int else self.text_or_number(key)

    def token_ids(self, key: str, size: int) -> tuple[int, ...]:
        """The token ids under ``key``, of a vocabulary of ``size``.

        Raises:
            InputError: it holds no list of such ids, or an empty one.
        """
        found = self.values.get(key)
        if not isinstance(found, list) or not found or not all(type(i) is int and 0 <= i < size for i in found):
            raise InputError(
                f"{self.where}: key {key!r} holds no list of token ids below {size}; give the policy's own ids"
            )
        return tuple(found)


def read_records(source: str | Path, split: str, limit: int | None) -> list[Record]:
    """The first ``limit`` rows of what :func:`any_records` reads.

    Raises:
        InputError: the source cannot be read, holds no row, or a row is malformed.
    """
    if limit is not None and limit < 1:
        raise InputError(f"{source}: limit is {limit}; give at least 1, or leave it out for all rows")
    records = list(islice(any_records(source, split), limit))
    if not records:
        raise InputError(f"{source}: holds no rows; give a file with one JSON object a line")
    return records


def any_records(source: str | Path, split: str = "train") -> Iterator[Record]:
    """The rows of a JSONL file, a Parquet file, a folder of datasets or ``hub:owner/name[:config]``, one at a time.

    Args:
        source: the file, folder or name.
        split: of a folder or a dataset on the hub.

    Raises:
        InputError: it cannot be read, or a row is malformed.
    """
    if str(source).startswith(HUB):
        return hub_records(str(source), split)
    path = Path(source)
    if path.is_dir():
        return folder_records(path, split)
    return table_records(path) if path.suffix in TABLES else jsonl_records(path)


def folder_records(folder: Path, split: str) -> Iterator[Record]:
    """The rows of a folder as ``datasets`` writes or loads them: data files, or what ``save_to_disk`` left.

    Files of the split have it in their path as a word (``train-00000-of-00002.parquet``); where no file names a split,
    all are of ``train``.
    """
    files = data_files(folder)
    names = {file: str(file.relative_to(folder)).lower() for file in files}
    chosen = [file for file in files if has_word(names[file], split.lower())]
    others = any(has_word(name, word) for name in names.values() for word in ("test", "validation"))
    if not chosen and split == "train" and not others:
        chosen = files
    if not chosen:
        raise InputError(f"{folder}: a directory without .parquet, .arrow or .jsonl file of split {split}; give a file")
    for file in chosen:
        yield from table_records(file) if file.suffix in TABLES else jsonl_records(file)


def has_word(text: str, word: str) -> bool:
    """Whether a word stands in a text with no letter or digit at its sides."""
    return re.search(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", text) is not None


def data_files(folder: Path) -> list[Path]:
    """The Parquet, Arrow and JSONL files below a folder, but hidden ones."""
    return sorted(f for f in folder.rglob("*") if f.suffix in (*TABLES, ".jsonl") and not f.name.startswith("."))


def table_records(path: Path) -> Iterator[Record]:
    """The rows of a Parquet file, or of an Arrow file of ``datasets``."""
    import pyarrow as pa  # most runs read JSONL

    number = 0
    try:
        for batch in TABLES[path.suffix](path):
            batch.validate(full=True)  # a damaged offset would have texts read from anywhere
            for values in batch.to_pylist():
                yield Record(f"{path}, row {number}", values)
                number += 1
    except (OSError, ValueError, pa.ArrowException) as error:  # of the second kind: what is no UTF-8
        reason = str(error).strip().partition("\n")[0]
        kind = path.suffix.removeprefix(".").capitalize()
        raise InputError(f"{path}, behind row {number}: not readable as {kind}: {reason}; write it again") from error


def parquet_batches(path: Path) -> Iterator[Any]:
    """Record batches of a Parquet file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(1024)


def arrow_batches(path: Path) -> Iterator[Any]:
    """Record batches of an Arrow stream, as ``datasets`` saves."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        yield from stream


TABLES: dict[str, Callable[[Path], Iterator[Any]]] = {".parquet": parquet_batches, ".arrow": arrow_batches}


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
