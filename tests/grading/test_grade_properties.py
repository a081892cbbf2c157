"""The grader on any text: it never raises, and an answer equals itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepneg.grading import grade
from stepneg.grading.normalise import normalise
from stepneg.grading.number import as_number
from stepneg.grading.verifier import EVERY, Form, equal_answers

FORMS: tuple[Form, ...] = ("math", "gsm8k", "number")
PIECES = st.sampled_from(
    [
        r"\boxed{", r"\fbox{", r"\boxed ", r"\frac", r"\text{", r"\left(", r"\{", "\\", r"\\", "}", "{", ")", "[", "^",
        "#### ", "answer is ", "\nA: ", " cm", " and ", "12", "1,234", ".5", ",", "/", "-", "=", "x", "%", "$", "\0",
        "_", "\n",
    ]
)  # fmt: skip
MATH_LIKE = st.lists(PIECES | st.text(max_size=3), max_size=20).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.text() | MATH_LIKE, st.text() | MATH_LIKE, st.booleans())
def test_number_forms_never_raise(response: str, reference: str, every: bool) -> None:
    for form in ("gsm8k", "number"):
        verdict = grade(response, reference, form, EVERY[form] if every else None)
        assert (verdict.extracted is None) == (verdict.rule == "no_answer")


@settings(max_examples=150, deadline=None)
@given(MATH_LIKE, MATH_LIKE, st.booleans())
def test_math_never_raises_before_the_symbolic_comparison(response: str, reference: str, every: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stepneg.grading.compare.symbolically_equal", lambda *_: None)
        verdict = grade(response, reference, "math", EVERY["math"] if every else None)
        assert isinstance(verdict.correct, bool)


@settings(max_examples=30, deadline=None)
@given(MATH_LIKE, MATH_LIKE)
def test_math_never_raises(response: str, reference: str) -> None:
    grade(rf"\boxed{{{response}}}", reference, "math")


@settings(max_examples=100, deadline=None)
@given(MATH_LIKE)
def test_reflexive(answer: str) -> None:
    for response, form in ((rf"\boxed{{{answer}}}", "math"), (f"#### {answer}", "gsm8k"), (answer, "number")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stepneg.grading.compare.symbolically_equal", lambda *_: None)
            found = grade(response, "0", form).extracted
            if found is not None:
                verdict = grade(response, found, form)
                assert (verdict.correct, verdict.rule) == (True, "exact")


@settings(max_examples=100, deadline=None)
@given(MATH_LIKE, MATH_LIKE)
def test_equality_is_symmetric(first: str, second: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stepneg.grading.compare.symbolically_equal", lambda *_: None)
        for form in FORMS:
            equal = equal_answers(form)
            assert equal(first, second) == equal(second, first)


@settings(max_examples=100, deadline=None)
@given(st.fractions())
def test_every_spelling_of_a_fraction_is_that_number(value) -> None:  # type: ignore[no-untyped-def]
    over, under = value.numerator, value.denominator
    for text in (f"{over}/{under}", rf"\frac{{{over}}}{{{under}}}", rf"\dfrac{{{over}}}{{{under}}}"):
        assert as_number(normalise(text)) == value


@settings(max_examples=100, deadline=None)
@given(st.integers(), st.integers())
def test_integers_are_equal_only_to_themselves(a: int, b: int) -> None:
    for form, response in (("gsm8k", f"#### {a:,}"), ("math", rf"\boxed{{{a:,}}}"), ("number", f"it is {a:,}")):
        assert grade(response, str(b), form).correct == (a == b)
