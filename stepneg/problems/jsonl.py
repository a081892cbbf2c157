"""Problems from any JSONL file, and from Parquet or datasets in its place."""

from dataclasses import dataclass
from pathlib import Path

from stepneg.errors import InputError
from stepneg.grading.extract import last_boxed
from stepneg.problems.problem import Problem
from stepneg.problems.records import Record, read_records


def bare_answer(record: Record, key: str) -> str:
    """The reference answer under ``key``, as it stands.

    Raises:
        InputError: it is missing, or a worked solution: several lines that mark their answer.
    """
    answer = record.text_or_number(key)
    if "\n" in answer.strip() and ("####" in answer or last_boxed(answer) is not None):
        raise InputError(
            f"{record.where}: key {key!r} holds a worked solution; give the bare final answer, or read GSM8K's"
            " form with stepneg.problems.gsm8k.GSM8K and MATH's with stepneg.problems.math.MATH, by their path"
        )
    return answer


@dataclass(frozen=True)
class Jsonl:
    """A JSONL file: one object a line, with a question and its bare reference answer (text or a number).

    Args:
        path: the file, in UTF-8; or a Parquet file, a folder of datasets, or hub:owner/name[:config].
        question_key: key of the question.
        answer_key: key of the reference answer; a worked solution in its place is refused.
        solution_key: key of the worked solution; fine-tuning needs one, sampling and evaluation do not.
        limit: read only the first rows.
        split: of a folder or a dataset on the hub; a single file has none, and all its rows are read.
        meta_keys: keys of facts (texts or numbers), such as a level, by which accuracy is broken down and traces are
            chosen.
    """

    path: str | Path
    question_key: str = "question"
    answer_key: str = "answer"
    solution_key: str | None = None
    limit: int | None = None
    split: str = "train"
    meta_keys: tuple[str, ...] = ()

    def load(self) -> list[Problem]:
        """The problems, in the file's order; ids are ``<stem>/<row>``, of another split ``<stem>/<split>/<row>``."""
        stem = Path(self.path).stem
        if self.split != "train":
            stem = f"{stem}/{self.split}"
        return [
            Problem(
                id=f"{stem}/{row}",
                question=record.text(self.question_key),
                answer=bare_answer(record, self.answer_key),
                solution=None if self.solution_key is None else record.text(self.solution_key),
                meta={key: record.fact(key) for key in self.meta_keys},
            )
            for row, record in enumerate(read_records(self.path, self.split, self.limit))
        ]
