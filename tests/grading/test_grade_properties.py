"""The grader on any text: it never raises, and an answer equals itself."""

import random
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.perturbations import RIGHT, WRONG, references
from stepneg.grading import grade
from stepneg.grading.normalise import normalise
from stepneg.grading.number import as_number
from stepneg.grading.symbolic import REPLY_SECONDS
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
REFERENCES = st.sampled_from(sorted({text for text in references() if text}))
FORMATS = (
    r"\frac as \dfrac", r"\frac{1}{2} as \frac12", "spacing", r"\left and \right", "braces of exponents",
    "dollar signs and full stop", "Unicode minus", r"word without \text",
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A real reference with something cut out of it, put into it or doubled."""
    text = draw(REFERENCES)
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        inside = draw(st.sampled_from(["", text[start:end] * 2]) | PIECES | REFERENCES)
        text = text[:start] + inside + text[end:]
    return text


MUTATED = mutated()


@given(st.text() | MATH_LIKE, st.text() | MATH_LIKE, st.booleans())
def test_number_forms_never_raise(response: str, reference: str, every: bool) -> None:
    for form in ("gsm8k", "number"):
        verdict = grade(response, reference, form, EVERY[form] if every else None)
        assert (verdict.extracted is None) == (verdict.rule == "no_answer")


@given(MATH_LIKE, MATH_LIKE, st.booleans())
def test_math_never_raises_before_the_symbolic_comparison(response: str, reference: str, every: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stepneg.grading.compare.symbolically_equal", lambda *_: None)
        verdict = grade(response, reference, "math", EVERY["math"] if every else None)
        assert isinstance(verdict.correct, bool)


@example("<A", "")  # the fuzzer found it
@given(MATH_LIKE | MUTATED, MATH_LIKE | MUTATED)
def test_math_never_raises_and_never_outlives_its_limit(response: str, reference: str) -> None:
    start = time.monotonic()
    grade(rf"\boxed{{{response}}}", reference, "math")
    assert time.monotonic() - start < REPLY_SECONDS


@example("5x - 11y + z - 17 = 0", "=5x - 11y + z - 17 = 0")  # the fuzzer found it
@given(REFERENCES | MUTATED, REFERENCES | MUTATED)
def test_symbolic_equality_is_reflexive_and_symmetric(first: str, second: str) -> None:
    equal = equal_answers("math")
    assert equal(first, first)
    assert equal(first, second) == equal(second, first)


@given(st.data(), REFERENCES, st.randoms(use_true_random=False))
def test_formatting_changes_no_verdict(data: st.DataObject, reference: str, rng: random.Random) -> None:
    """Right, nearly right and quite different answers keep their verdict in every spelling of either side."""
    near = [text for function in (*RIGHT.values(), *WRONG.values()) if (text := function(reference, rng)) is not None]
    answer = data.draw(st.sampled_from([reference, *near]) | REFERENCES)
    expected = grade(rf"\boxed{{{answer}}}", reference, "math").correct
    for name in data.draw(st.lists(st.sampled_from(FORMATS), min_size=1, max_size=3)):
        answer = RIGHT[name](answer, rng) or answer
    assert grade(rf"\boxed{{{answer}}}", reference, "math").correct == expected
    assert equal_answers("math")(reference, answer) == expected


@given(MATH_LIKE)
def test_reflexive(answer: str) -> None:
    for response, form in ((rf"\boxed{{{answer}}}", "math"), (f"#### {answer}", "gsm8k"), (answer, "number")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stepneg.grading.compare.symbolically_equal", lambda *_: None)
            found = grade(response, "0", form).extracted
            if found is not None:
                verdict = grade(response, found, form)
                assert (verdict.correct, verdict.rule) == (True, "exact")


@given(MATH_LIKE, MATH_LIKE)
def test_equality_is_symmetric(first: str, second: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stepneg.grading.compare.symbolically_equal", lambda *_: None)
        for form in FORMS:
            equal = equal_answers(form)
            assert equal(first, second) == equal(second, first)


@given(st.fractions())
def test_every_spelling_of_a_fraction_is_that_number(value) -> None:  # type: ignore[no-untyped-def]
    over, under = value.numerator, value.denominator
    for text in (f"{over}/{under}", rf"\frac{{{over}}}{{{under}}}", rf"\dfrac{{{over}}}{{{under}}}"):
        assert as_number(normalise(text)) == value


@given(st.integers(), st.integers())
def test_integers_are_equal_only_to_themselves(a: int, b: int) -> None:
    for form, response in (("gsm8k", f"#### {a:,}"), ("math", rf"\boxed{{{a:,}}}"), ("number", f"it is {a:,}")):
        assert grade(response, str(b), form).correct == (a == b)
