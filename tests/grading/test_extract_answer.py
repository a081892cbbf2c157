"""Where the final answer stands in a response."""

import pytest

from stepneg.errors import InputError
from stepneg.grading import EVERY, Form, extract, find_answer, grade


def extract_answer(text: str, form: Form, every: bool = False) -> str | None:
    found = find_answer(text, form, EVERY[form] if every else None)
    return found[0] if found else None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $\boxed{5}$.", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{1} and \fbox{2}", "2"),
        (r"\boxed{1} but \boxed{2 was cut o", "1"),
        (r"\boxed{3 was cut o", None),
        (r"\boxed{ {a}{b} }", "{a}{b}"),
        (r"\boxed {7}", "7"),
        (r"\boxed 5$ and more", "5"),
        (r"\boxed -\frac{1}{2}$", r"-\frac{1}{2}"),
        (r"\boxed\frac{1}{2}$", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{1,2\right.}", r"\left\{1,2\right."),
        (r"\boxed{a\\{b}}", r"a\\{b}"),
        (r"\\\boxed{5}", "5"),
        (r"\\boxed{5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{}", None),
        (r"\boxedness{5}", None),
        ("} } { " + r"\boxed{5}", "5"),
        ("", None),
        ("no box", None),
    ],
)
def test_last_boxed(text: str, answer: str | None) -> None:
    assert extract.last_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("work\n#### 18", "18"),
        ("#### 1\n#### 2", "2"),
        ("####18", "18"),
        ("####\n18", "18"),
        ("#### $18 a day.\nQuestion: 5", "18"),
        ("#### -$18", "-$18"),
        ("#### -5", "-5"),
        ("#### 1,250.50 dollars", "1,250.50"),
        ("#### **18**", "18"),
        ("#### 18%", "18"),
        ("#### 1/2 cup", "1/2"),
        ("#### 18 + 4 = 22", "18 + 4 = 22"),
        ("#### 5 million", "5 million"),
        ("#### Janet", "Janet"),
        ("the answer is 18", None),
        ("####", None),
        ("### 18", None),
    ],
)
def test_gsm8k_strict(text: str, answer: str | None) -> None:
    assert extract_answer(text, "gsm8k") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 3\nThe answer is 4", "3"),
        ("The answer is not 5. The answer is $6 a day.", "6"),
        ("the final answer: 7 eggs", "7"),
        ("5 + 5 = 10\nA: 26", "26"),
        ("He has 5 - 3 = 2 left, so 10-4", "4"),
        ("It is 3.5.", "3.5"),
        ("so 1,234 in all", "1,234"),
        ("temperature of -5", "-5"),
        ("half, .5", ".5"),
        ("nothing", None),
        ("The answer is unknown, though 12 was close", "12"),
        (r"so \boxed{18\text{ dollars}}", "18"),
        (r"so \boxed{\$1{,}250}", "1250"),
        (r"The answer is \boxed{\frac12}.", r"\frac{1}{2}"),
        (r"The answer is $\dfrac{3}{4}$ of it.", r"\frac{3}{4}"),
        (r"The answer is $-7$ degrees", "-7"),
    ],
)
def test_gsm8k_flexible(text: str, answer: str | None) -> None:
    assert extract_answer(text, "gsm8k", every=True) == answer


def test_number_form_takes_hashes_then_the_last_number() -> None:
    assert extract_answer("7 then #### 5\nor 9", "number") == "5"
    assert extract_answer("7 then 9", "number") == "9"
    assert extract_answer("none", "number") is None


def test_math_flexible() -> None:
    assert extract_answer(r"the answer is $\frac{1}{2}$, as said.", "math", every=True) == r"\frac{1}{2}"
    assert extract_answer(r"the answer is \(x+1\).", "math", every=True) == "x+1"
    assert extract_answer("the answer is x+1", "math", every=True) == "x+1"
    assert extract_answer("the answer is x+1", "math") is None


def test_unknown_form() -> None:
    with pytest.raises(InputError, match="use one of gsm8k, math, number"):
        grade("#### 5", "5", "gsm")
