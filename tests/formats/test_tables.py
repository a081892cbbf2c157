"""Tables are written a batch at a time, and appear whole or not at all."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stepneg.errors import InputError
from stepneg.formats.tables import write_rows
from stepneg.problems.records import any_records

SCHEMA = pa.schema({"number": pa.int64(), "text": pa.string()})
ROWS, LENGTH = 10_000, 1000


def rows(number: int = ROWS) -> Iterator[dict[str, Any]]:
    return ({"number": i, "text": f"{i:0{LENGTH}}"} for i in range(number))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a"])
def test_memory_does_not_grow_with_the_rows(name, tmp_path):
    """10 MB are written and read within half of that."""
    peak = 0

    def watched() -> Iterator[dict[str, Any]]:
        nonlocal peak
        for row in rows():
            peak = max(peak, pa.total_allocated_bytes())
            yield row

    write_rows(rows(1), tmp_path / f"first-{name}", SCHEMA)  # with the imports that this takes
    list(any_records(tmp_path / f"first-{name}"))
    tracemalloc.start()
    assert write_rows(watched(), tmp_path / name, SCHEMA) == ROWS
    assert sum(int(str(record.values["text"])) for record in any_records(tmp_path / name)) == sum(range(ROWS))
    peak += tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < ROWS * LENGTH / 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a"])
def test_a_failure_leaves_what_was_there(name, tmp_path):
    def breaks() -> Iterator[dict[str, Any]]:
        yield from rows(3000)
        raise InputError("planned")

    write_rows(rows(2), tmp_path / f"old-{name}", SCHEMA)
    with pytest.raises(InputError, match="planned"):
        write_rows(breaks(), tmp_path / name, SCHEMA)
    assert [path.name for path in tmp_path.iterdir()] == [f"old-{name}"]
    if Path(name).suffix:  # a file is replaced
        write_rows(rows(1), tmp_path / f"old-{name}", SCHEMA)
        assert len(list(any_records(tmp_path / f"old-{name}"))) == 1


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"give a place that can be written"):
        write_rows(rows(1), tmp_path / "file" / "a.jsonl", SCHEMA)
