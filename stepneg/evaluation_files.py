"""An evaluation on disk: its values as JSON with a checksum, its graded problems as JSONL beside it."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stepneg.errors import InputError
from stepneg.reading import json_object
from stepneg.sampling.store import exported
from stepneg.whole import write_whole


def checksum(values: dict[str, Any], problems: str) -> str:
    """sha256 over the values of an evaluation and the text of its problems' file."""
    return hashlib.sha256(f"{json.dumps(values)}\n{problems}".encode()).hexdigest()


def write_evaluation(file: Path, values: dict[str, Any], rows: Iterable[dict[str, Any]]) -> None:
    """Write the values to ``file`` (JSON) and the rows beside it (JSONL); each appears whole, the values last."""
    file.parent.mkdir(parents=True, exist_ok=True)
    problems = "".join(json.dumps(row) + "\n" for row in rows)
    write_whole(file.with_suffix(".jsonl"), problems)
    write_whole(file, json.dumps(values | {"sha256": checksum(values, problems)}, indent=1) + "\n")


def of_own_policy(home: Path) -> bool:
    """Whether a run's test was of a policy that its last fit exported; True as well where nothing tells."""
    try:
        tested = json.loads((home / "evaluation" / "test.json").read_bytes())["settings"]["policy_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True
    own = {exported(home / name) for name in ("last", "best")} - {None}
    return not own or tested in own


def read_evaluation(file: Path) -> dict[str, Any]:
    """The values that :func:`write_evaluation` wrote to ``file``; they and the problems beside it are checked.

    Files without a checksum, of another origin, are taken as they are.

    Raises:
        InputError: they cannot be read, or are not as they were written.
    """
    values = json_object(file, "evaluate again")
    if (said := values.pop("sha256", None)) is None:
        return values
    try:
        whole = said == checksum(values, file.with_suffix(".jsonl").read_bytes().decode())
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise InputError(f"{file}: it or its .jsonl was changed or damaged since it was written; evaluate again")
    return values
