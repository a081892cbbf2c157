"""Disjoint splits of a generated task."""

import hashlib
from typing import Literal

Split = Literal["train", "validation", "test"]


def split_of(question: str) -> Split:
    """The split that a problem text belongs to, by its hash: the three are disjoint whatever the seeds."""
    bucket = int(hashlib.sha256(question.encode()).hexdigest(), 16) % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"
