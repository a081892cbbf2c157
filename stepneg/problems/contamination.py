"""Evaluation problems that stand in the training set too."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from stepneg.problems.problem import Problem

HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})")  # two-digit, but not x-y
# What carries no meaning in a question. Operators and decimal points do: x^8 + 98 is not x^8 - 98, $1.50 is not $150.
PUNCTUATION = re.compile(r"(?<![0-9])\.|\.(?![0-9])|[^\w.+\-*/^=<>|%!]|_")


def normalised_question(question: str) -> str:
    """The question without case, white space, LaTeX marks and punctuation."""
    folded = unicodedata.normalize("NFKC", question).replace("\N{MINUS SIGN}", "-").casefold()
    return PUNCTUATION.sub("", HYPHEN.sub("", folded))


def contamination(train: Iterable[Problem], held_out: Iterable[Problem]) -> list[tuple[str, str]]:
    """Pairs (training id, held-out id) whose questions are the same text after :func:`normalised_question`."""
    by_question: defaultdict[str, list[str]] = defaultdict(list)
    for problem in train:
        by_question[normalised_question(problem.question)].append(problem.id)
    return [
        (train_id, problem.id)
        for problem in held_out
        for train_id in by_question.get(normalised_question(problem.question), ())
    ]
