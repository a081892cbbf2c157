"""What names a thing by its content: settings and problems."""

import hashlib
import json
from dataclasses import fields, is_dataclass
from typing import Any

from stepneg.sampling.store import fingerprint_policy

PLACE = {"fingerprint": False}


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: the same for equal settings, whatever object carries them.

    Fields that say where something is kept, with ``PLACE`` as their metadata, are no settings.
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


__all__ = ["PLACE", "fingerprint", "fingerprint_policy", "plain"]
