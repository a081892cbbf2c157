"""GSM8K (Cobbe et al., "Training Verifiers to Solve Math Word Problems", arXiv 2110.14168)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stepneg.errors import InputError
from stepneg.problems import ASSETS
from stepneg.problems.problem import Problem
from stepneg.problems.records import Record, read_records

HUB_NAME = "hub:openai/gsm8k:main"
CALCULATOR = re.compile(r"<<[^<>]*>>")


def without_calculator(solution: str) -> str:
    """The solution as people read it: ``48/2 = <<48/2=24>>24`` becomes ``48/2 = 24``."""
    return CALCULATOR.sub("", solution)


def to_problem(record: Record, problem_id: str) -> Problem:
    """The problem of a row: the worked lines and the answer stand in one field, parted by ``####``."""
    solution = record.text("answer")
    worked, mark, answer = solution.rpartition("####")
    answer = answer.replace(",", "").replace("$", "").strip()
    if not mark or not answer:
        raise InputError(f"{record.where}: key 'answer' has no '#### <number>' at its end; add the final answer")
    return Problem(
        id=problem_id,
        question=record.text("question"),
        answer=answer,
        solution=without_calculator(solution),
        meta={"steps": sum(bool(line.strip()) for line in worked.splitlines())},
    )


@dataclass(frozen=True)
class GSM8K:
    """Grade-school word problems: 7,473 to train on, 1,319 to test on.

    Args:
        split: which of the two sets.
        path: a JSONL file in GSM8K's form, or ``hub:owner/name[:config]``. By default the repository's own
            copy under ``assets/gsm8k``, and the hub's ``openai/gsm8k`` where that folder is missing.
        limit: read only the first rows.
    """

    split: Literal["train", "test"] = "train"
    path: str | Path | None = None
    limit: int | None = None

    def load(self) -> list[Problem]:
        """The problems, in the file's order; ``meta["steps"]`` counts the lines before ``####``."""
        shipped = ASSETS / "gsm8k" / f"{self.split}.jsonl"
        source = self.path or (shipped if shipped.exists() else HUB_NAME)
        records = read_records(source, self.split, self.limit)
        return [to_problem(record, f"gsm8k/{self.split}/{row}") for row, record in enumerate(records)]
