"""Rows to JSONL, Parquet or a folder that ``datasets.load_dataset`` opens: a batch in memory, whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepneg.errors import InputError
from stepneg.links import place_of

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1024  # rows in memory, and in a row group of Parquet
Row = Mapping[str, Any]


def check_output(output: Path) -> None:
    """Refuse a place that rows cannot go to, before anything is computed for it.

    Raises:
        InputError: its suffix is not known, or there is something already that is no file.
    """
    if output.suffix not in (".jsonl", ".parquet", ""):
        raise InputError(f"{output}: {output.suffix} is not written; name a .jsonl or .parquet file, or a folder")
    if output.is_dir():
        raise InputError(f"{output}: there is a folder already; choose another name or remove it")
    place_of(output)


@contextmanager
def appearing(output: Path) -> Iterator[Path]:
    """A place beside ``output`` to write to, which becomes ``output`` if all goes well and is removed otherwise.

    Raises:
        InputError: it cannot be written there.
    """
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(output)
    except OSError as error:
        raise InputError(f"{output}: {error.strerror or error}; give a place that can be written") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            partial.unlink()


def write_rows(rows: Iterable[Row], output: Path, schema: "pa.Schema") -> int:
    """Write rows as the suffix of ``output`` says: ``.jsonl``, ``.parquet``, or none for a folder with a split "train".

    Args:
        rows: each with the columns of the schema.
        output: appears when all rows are written.
        schema: names and types of the columns.

    Returns:
        How many rows there were.

    Raises:
        InputError: the place cannot be written, see also :func:`check_output`.
    """
    check_output(output)
    with appearing(place_of(output)) as partial:
        if output.suffix == ".jsonl":
            return write_jsonl(rows, partial)
        if output.suffix == ".parquet":
            return write_parquet(rows, partial, schema)
        partial.mkdir()
        return write_parquet(rows, partial / "train.parquet", schema)


def write_jsonl(rows: Iterable[Row], file: Path) -> int:
    """A JSON object a line."""
    with file.open("w", encoding="utf-8") as out:
        return sum(1 for row in rows if out.write(json.dumps(row) + "\n"))


def write_parquet(rows: Iterable[Row], file: Path, schema: "pa.Schema") -> int:
    """A row group a batch."""
    import pyarrow as pa  # not for those who write JSONL
    import pyarrow.parquet as pq

    number, rest = 0, iter(rows)
    with pq.ParquetWriter(file, schema) as out:
        while batch := list(islice(rest, BATCH)):
            out.write_batch(pa.RecordBatch.from_pylist(batch, schema))
            number += len(batch)
    return number
