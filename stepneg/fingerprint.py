"""What names a thing by its content: settings, problems, policies and folders of datasets."""

import hashlib
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from stepneg.problems.records import data_files
from stepneg.sampling.store import fingerprint_files, fingerprint_policy

PLACE = {"fingerprint": False}


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: the same for equal settings, whatever object carries them.

    Fields that say where or by what something is done, with ``PLACE`` as their metadata, are no settings.
    """
    if is_dataclass(value) and not isinstance(value, type):
        told = {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.metadata != PLACE}
        return {"class": type(value).__name__} | told
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, int | float | str | bool | None) else str(value)


def fingerprint(*parts: Any) -> str:
    """Short sha256 over anything that :func:`plain` can show."""
    return hashlib.sha256(json.dumps([plain(p) for p in parts], sort_keys=True).encode()).hexdigest()[:16]


def fingerprint_datasets(folder: Path) -> str:
    """Fingerprint of the data files that a source of problems reads in a folder; empty if there are none.

    It is of their names below the folder, which may be moved, and of their contents. Files are hashed in pieces, and
    once while they stay as they are.
    """
    files = [file for file in data_files(folder) if file.is_file()]
    return fingerprint([(str(file.relative_to(folder)), fingerprint_files([file])) for file in files]) if files else ""


def is_source(place: str) -> bool:
    """Whether a setting of this dotted place names what problems or pairs are read from: ``path``, but of no model.

    The key decides, not whether a folder holds data files: the sample store and run directories, which other keys name
    (``store``, ``root``, ``default_root_dir``), hold .jsonl as well, but are written to.
    """
    *above, key = place.split(".")
    return key == "path" and "model" not in above


__all__ = [
    "PLACE",
    "fingerprint",
    "fingerprint_datasets",
    "fingerprint_files",
    "fingerprint_policy",
    "is_source",
    "plain",
]
