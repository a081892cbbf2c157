r"""MATH (Hendrycks et al., "Measuring Mathematical Problem Solving With the MATH Dataset", arXiv 2103.03874)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stepneg.errors import InputError
from stepneg.grading.extract import last_boxed
from stepneg.problems import ASSETS
from stepneg.problems.problem import Problem
from stepneg.problems.records import Record, read_records

HUB_NAME = "hub:DigitalLearningGmbH/MATH-lighteval:default"  # the original split: 7,500 and 5,000
# Two training rows (number theory 7115 and 7117) lost what stood in their box. Both ask how many primes; it is 0.
EMPTY_BOXES = (
    r"Therefore there are $\boxed{}$ primes in that range.",
    r"is not prime for any $n$, so the answer is $\boxed{}$.",
)


def with_known_answer(solution: str) -> str:
    """The solution with its box filled in, if it is one of the two that came without."""
    return solution.replace(r"\boxed{}", r"\boxed{0}") if solution.rstrip().endswith(EMPTY_BOXES) else solution


def to_problem(record: Record, problem_id: str) -> Problem:
    r"""The problem of a row: the answer is what the solution's last ``\boxed`` holds."""
    solution = with_known_answer(record.text("solution"))
    answer = last_boxed(solution)
    if not answer:
        raise InputError(rf"{record.where}: key 'solution' has no \boxed{{...}} with balanced braces; box the answer")
    return Problem(
        id=problem_id,
        question=record.text("problem"),
        answer=answer,
        solution=solution,
        meta={"level": record.text("level"), "subject": record.text("type")},
    )


@dataclass(frozen=True)
class MATH:
    """Competition problems: 7,500 to train on, 5,000 to test on.

    Args:
        split: which of the two sets.
        path: a JSONL file in MATH's form (``problem``, ``solution``, ``level``, ``type``), or
            ``hub:owner/name[:config]``. By default the repository's own copy under ``assets/math``, and the
            hub's ``DigitalLearningGmbH/MATH-lighteval`` where that folder is missing.
        limit: read only the first rows; they are sorted by subject.
    """

    split: Literal["train", "test"] = "train"
    path: str | Path | None = None
    limit: int | None = None

    def load(self) -> list[Problem]:
        """The problems, in the file's order; ``meta`` has ``level`` ("Level 5") and ``subject``."""
        shipped = ASSETS / "math" / f"{self.split}.jsonl"
        source = self.path or (shipped if shipped.exists() else HUB_NAME)
        records = read_records(source, self.split, self.limit)
        return [to_problem(record, f"math/{self.split}/{row}") for row, record in enumerate(records)]
