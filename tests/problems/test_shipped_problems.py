"""The readers on the files that the repository ships."""

import re
from collections import Counter

import pytest

from stepneg.grading import grade
from stepneg.problems import Problem, gsm8k, math
from stepneg.problems.contamination import contamination, normalised_question
from stepneg.problems.gsm8k import GSM8K
from stepneg.problems.math import MATH


@pytest.mark.parametrize(
    ("source", "rows", "form"),
    [
        (GSM8K("train"), 7473, "gsm8k"),
        (GSM8K("test"), 1319, "gsm8k"),
        (MATH("train"), 7500, "math"),
        (MATH("test"), 5000, "math"),
    ],
)
def test_every_teacher_solution_is_graded_correct(source: GSM8K | MATH, rows: int, form: str) -> None:
    problems = source.load()
    assert len(problems) == rows
    assert len({p.id for p in problems}) == rows
    wrong = [p.id for p in problems if not grade(p.solution or "", p.answer, form).correct]
    assert wrong == []


def test_gsm8k_row() -> None:
    first = GSM8K("train", limit=1).load()[0]
    assert first.id == "gsm8k/train/0"
    assert first.question.startswith("Natalia sold clips")
    assert first.answer == "72"
    assert first.solution == (
        "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether in April and May.\n#### 72"
    )
    assert first.meta == {"steps": 2}


def test_gsm8k_answers_are_bare_integers_and_solutions_readable() -> None:
    for problem in GSM8K("train").load():
        assert re.fullmatch(r"-?[0-9]+", problem.answer)
        assert "<<" not in (problem.solution or "")
        assert ">>" not in (problem.solution or "")


def test_math_row() -> None:
    second = MATH("train", limit=2).load()[1]
    assert (second.id, second.answer) == ("math/train/1", "8+4i")
    assert second.meta == {"level": "Level 3", "subject": "Algebra"}


def test_math_break_down() -> None:
    problems = MATH("test").load()
    assert Counter(p.meta["level"] for p in problems)["Level 5"] == 1324
    assert len({p.meta["subject"] for p in problems}) == 7


def test_the_two_empty_boxes_of_math_are_filled_in() -> None:
    filled = [
        p for p in MATH("train").load() if (p.solution or "").rstrip().endswith(("in that range.", "is $\\boxed{0}$."))
    ]
    lost = [p for p in filled if "prime" in p.question and p.meta["subject"] == "Number Theory"]
    assert [(p.id, p.answer) for p in lost] == [("math/train/5529", "0"), ("math/train/5531", "0")]


def test_contamination_in_math_and_none_in_gsm8k() -> None:
    assert contamination(GSM8K("train").load(), GSM8K("test").load()) == []
    train, test = MATH("train").load(), MATH("test").load()
    question = {p.id: p.question for p in (*train, *test)}
    pairs = contamination(train, test)
    assert len(pairs) == 4  # found by this very rule; all four differ in spacing and marks only
    assert all(question[a] != question[b] for a, b in pairs)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is $2x^{2}+3x-5$?", "what is  $2x^2 + 3x - 5$"),
        ("A two-digit number.", "A two digit number"),
        ("It costs $1,000", "It costs $1000."),
        ("x \N{MINUS SIGN} 1", "x-1"),
        ("Janet\u2019s ducks", "Janet's ducks"),
    ],
)
def test_same_question(first: str, second: str) -> None:
    assert normalised_question(first) == normalised_question(second)
    problems = [Problem("train/0", first, "1")], [Problem("test/0", second, "1")]
    assert contamination(*problems) == [("train/0", "test/0")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Find $p(1)$ if $x^8 + 98x^4$", "Find $p(1)$ if $x^8 - 98x^4$"),
        ("It costs $1.50", "It costs $150"),
        ("$x-y$", "$xy$"),
        ("$5!/3!$", "$5/3$"),
    ],
)
def test_different_question(first: str, second: str) -> None:
    assert normalised_question(first) != normalised_question(second)


def test_calculator_annotations() -> None:
    assert gsm8k.without_calculator("48/2 = <<48/2=24>>24, x << y >> 1") == "48/2 = 24, x  1"
    assert gsm8k.without_calculator("a < b and <<") == "a < b and <<"
    assert math.with_known_answer(r"\boxed{}") == r"\boxed{}"
