"""Problems and where they come from."""

from pathlib import Path
from typing import Protocol

from stepneg.problems.problem import Problem


class ProblemSource(Protocol):
    """Anything that loads problems: ``GSM8K``, ``MATH``, ``Jsonl``, ``Arithmetic`` or your own class."""

    def load(self) -> list[Problem]:
        """The problems, in a fixed order."""
        ...


ASSETS = Path(__file__).resolve().parents[2] / "assets"

__all__ = ["ASSETS", "Problem", "ProblemSource"]
