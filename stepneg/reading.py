"""Files that somebody else may have made: read within bounds and checked, or refused in a line."""

import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from stepneg.errors import InputError

LONGEST_LINE = 1 << 26  # bytes; a sample of 100,000 tokens has less than 1 MB
LARGEST_JSON = 1 << 26  # bytes of a file that is read whole
LARGEST_NUMBER = 1e18


def byte_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line of a file, of one that is too long only the first ``LONGEST_LINE`` + 1.

    Raises:
        OSError: it cannot be read, or is no ordinary file: a pipe or a device may never end.
    """
    with file.open("rb") as lines:
        if not stat.S_ISREG(file.stat().st_mode):
            raise OSError(None, "not an ordinary file")
        number = 0
        while line := lines.readline(LONGEST_LINE + 1):
            number += 1
            yield number, line
            while len(line) > LONGEST_LINE and not line.endswith(b"\n"):
                line = lines.readline(LONGEST_LINE + 1)


def json_object(file: Path, mend: str) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        file: at most ``LARGEST_JSON`` bytes.
        mend: what to do if it cannot be used.

    Raises:
        InputError: it cannot be read or holds something else.
    """
    try:
        text = file.read_bytes() if file.stat().st_size <= LARGEST_JSON and file.is_file() else None
        found = None if text is None else json.loads(text)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}; {mend}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error}); {mend}") from error
    if text is None:
        raise InputError(f"{file}: no ordinary file of at most {LARGEST_JSON >> 20} MiB; {mend}")
    if not isinstance(found, dict):
        raise InputError(f"{file}: holds {type(found).__name__}, no JSON object; {mend}")
    return found


def number(values: Mapping[str, Any], name: str, file: Path, mend: str, missing: float | None = None) -> float:
    """The finite number under a name.

    Args:
        values: of the file's object.
        name: of the number.
        file: where it stands.
        mend: what to do if it cannot be used.
        missing: what a name that is not there counts as; None if it must be.

    Raises:
        InputError: there is something else.
    """
    value = values.get(name, missing)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST_NUMBER:
        raise InputError(f"{file}: {name} is {shorten(repr(value), 40)}, no number; {mend}")
    return value
